// what:   y = activation(conv(x, w) + bias) over frames, rows and columns, for any extents
// in/out: x [B,F,H,W,C], w [Cout,KF,KH,KW,C], bias [Cout] -> y [B,Fo,Ho,Wo,Cout]
// launch: a line of ceil(count / BLOCK) blocks of BLOCK; no shared memory
// work:   2 KF KH KW C flop per element of y; every element reads its taps and its filter again (from cache)
// needs:  nothing
// error:  f32 sums in the order of the filter, one rounding to the output's type
// idea:   one thread per element of y: the formula, and a check for the others

struct Params {
    // Output cells of this launch, channels of x and of y.
    u32 cells, c, channels;
    u32 frames, height, width, out_frames, out_height, out_width;
    u32 stride_frames, stride_height, stride_width;
    // Zeros before the first cell.
    u32 before_frames, before_height, before_width;
    // First elements in the operands.
    u32 first_x, first_y;
};

KERNEL __launch_bounds__(BLOCK) conv3d(OPERANDS, const Params params) {
    u32 i = linear_block() * BLOCK + threadIdx.x;
    if (i >= params.cells * params.channels) return;
    u32 n = i % params.channels, cell = i / params.channels;
    u32 line = cell / params.out_width, map = line / params.out_height, item = map / params.out_frames;
    // The cell of x under the first tap; before the clip it wraps to large numbers.
    u32 first_frame = map % params.out_frames * params.stride_frames - params.before_frames;
    u32 first_row = line % params.out_height * params.stride_height - params.before_height;
    u32 first_column = cell % params.out_width * params.stride_width - params.before_width;

    // 1. Taps that do not lie in the padding.
    const u32 taps = KERNEL_FRAMES * KERNEL_HEIGHT * KERNEL_WIDTH;
    float sum = 0.0f;
    for (u32 tap = 0; tap < taps; tap++) {
        u32 frame = first_frame + tap / (KERNEL_WIDTH * KERNEL_HEIGHT);
        u32 row = first_row + tap / KERNEL_WIDTH % KERNEL_HEIGHT, column = first_column + tap % KERNEL_WIDTH;
        if (frame >= params.frames || row >= params.height || column >= params.width) continue;
        u32 pixel = ((item * params.frames + frame) * params.height + row) * params.width + column;
        u32 from = params.first_x + pixel * params.c, filter = (n * taps + tap) * params.c;
        for (u32 k = 0; k < params.c; k++) sum += read_x(from + k) * read_w(filter + k);
    }

    // 2. Bias, activation.
    write_y(params.first_y + i, activate(sum + read_bias(n)));
}
