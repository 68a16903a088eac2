// what:   y = activation(conv(resize(concat(x, x2)), w) + bias + shift) + residual, for any extents
// in/out: x [B,H,W,C1], x2 [B,H,W,C2], w [Cout,KH,KW,C1+C2], bias [Cout], shift [B,T], residual [B,Ho,Wo,Cout] -> y like it
// launch: a line of ceil(count / BLOCK) blocks of BLOCK; no shared memory
// work:   2 KH KW (C1 + C2) flop per element of y; every element reads its taps and its filter again (from cache)
// needs:  nothing
// error:  f32 sums in the order of the filter, one rounding to the output's type
// idea:   one thread per element of y: the formula, and a check for the others

struct Params {
    // Items and output rows of this launch: the first one, and how many.
    u32 item, items, row, rows;
    // Extents of y.
    u32 height, width, channels;
    // Extents of the sources as stored, and as the kernel slides over them.
    u32 source_height, source_width, input_height, input_width, c1, c2;
    // First column of the shift, and length of its rows.
    u32 shift_column, shift_stride;
    // What is added to an index of a whole operand to give its place in the operand bound, modulo 2^32.
    u32 at_x, at_x2, at_residual, at_y;
};

KERNEL __launch_bounds__(BLOCK) conv2d(OPERANDS, const Params params) {
    u32 i = linear_block() * BLOCK + threadIdx.x;
    if (i >= params.items * params.rows * params.width * params.channels) return;
    u32 n = i % params.channels, column = i / params.channels % params.width;
    u32 line = i / params.channels / params.width;
    u32 item = params.item + line / params.rows, row = params.row + line % params.rows;
    u32 c = params.c1 + params.c2;

    // 1. Taps that do not lie in the padding.
    float sum = 0.0f;
    for (u32 ky = 0; ky < KERNEL_HEIGHT; ky++) {
        for (u32 kx = 0; kx < KERNEL_WIDTH; kx++) {
            // Rows above and columns left of the map wrap to large numbers.
            u32 from_row = row * STRIDE + ky - PAD_TOP, from_column = column * STRIDE + kx - PAD_LEFT;
            if (from_row >= params.input_height || from_column >= params.input_width) continue;
            if (RESIZED) {
                from_row = from_row * params.source_height / params.input_height;
                from_column = from_column * params.source_width / params.input_width;
            }
            u32 place = (item * params.source_height + from_row) * params.source_width + from_column;
            u32 filter = ((n * KERNEL_HEIGHT + ky) * KERNEL_WIDTH + kx) * c;
            u32 from = params.at_x + place * params.c1, from2 = params.at_x2 + place * params.c2;
            for (u32 k = 0; k < params.c1; k++) sum += read_x(from + k) * read_w(filter + k);
            for (u32 k = 0; k < params.c2; k++) sum += read_x2(from2 + k) * read_w(filter + params.c1 + k);
        }
    }

    // 2. Bias, shift, activation, residual.
    sum += read_bias(n) + read_shift(item * params.shift_stride + params.shift_column + n);
    u32 o = ((item * params.height + row) * params.width + column) * params.channels + n;
    write_y(params.at_y + o, activate(sum) + read_residual(params.at_residual + o));
}
