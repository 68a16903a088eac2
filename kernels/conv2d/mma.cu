// what:   y = activation(conv(resize(concat(x, x2)), w) + bias + shift) + residual, as an implicit product on tensor cores
// in/out: x [B,H,W,C1], x2 [B,H,W,C2], w [Cout,KH,KW,C1+C2], bias [Cout] in f32, shift [B,T], residual [B,Ho,Wo,Cout] -> y
// launch: a line of ceil(B Ho Wo / TILE_M) * ceil(Cout / TILE_N) blocks of 32 WARPS_M WARPS_N SLICES;
//         STAGES SLICES (TILE_M + TILE_N) 64 dynamic shared bytes
// work:   2 KH KW (C1 + C2) flop per element of y; each tap reads its map again (from L2), w read pixels / TILE_M times
// needs:  compute capability 7.5 (bf16, and f32 as tf32: 8.0), C1 and C2 multiples of CHUNK
// error:  f32 sums in chunks of 16 (tf32: of 8, of operands rounded to 11 digits) of every SLICES-th step, in the order of the filter, one rounding to the output's type
// idea:   the main loop of kernels/tile.cu; a row of a is an output pixel, a column a tap and channel: gathered from the map
//         16 bytes at a time while it is copied, zeros in the padding, so that no matrix of patches is ever stored

struct Params {
    // Pixels and columns of y, and tiles along pixels.
    u32 pixels, channels, tiles_m;
    // Extents of y, of the sources as stored, and as the kernel slides over them.
    u32 height, width, source_height, source_width, input_height, input_width;
    u32 c1, c2;
    // First column of the shift, and length of its rows.
    u32 shift_column, shift_stride;
};

KERNEL __launch_bounds__(THREADS, RESIDENT) conv2d(OPERANDS, const Params params) {
    DYNAMIC_SHARED(shared);
    const u32 first_row = linear_block() % params.tiles_m * TILE_M, first_column = linear_block() / params.tiles_m * TILE_N;
    if (first_column >= params.channels) return;
    const u32 c = params.c1 + params.c2, length = KERNEL_HEIGHT * KERNEL_WIDTH * c;
    const u32 chunk = copy_chunk(), line = copy_line(), area = params.height * params.width;

    // 1. Pixels of the rows that this thread copies: item, and where tap (0, 0) lies (before the map: wraps to large numbers).
    u32 item[A_COPIES], top[A_COPIES], left[A_COPIES];
#pragma unroll
    for (u32 i = 0; i < A_COPIES; i++) {
        const u32 row = first_row + line + i * LINES, in_item = row % area;
        item[i] = row / area;
        top[i] = in_item / params.width * STRIDE - PAD_TOP;
        left[i] = in_item % params.width * STRIDE - PAD_LEFT;
    }

    // 2. The product. Beyond the edges and in the padding, zeros.
    auto fetch = [&](u32 step, u8* stage) {
        const u32 k = step * TILE_K + chunk * CHUNK, tap = k / c, channel = k % c;
        const bool second = channel >= params.c1;
        const elem* source = second ? x2 + (channel - params.c1) : x + channel;
        const u32 stride = second ? params.c2 : params.c1;
#pragma unroll
        for (u32 i = 0; i < A_COPIES; i++) {
            u32 row = top[i] + tap / KERNEL_WIDTH, column = left[i] + tap % KERNEL_WIDTH;
            const u32 at = line + i * LINES;
            const bool inside =
                first_row + at < params.pixels && k < length && row < params.input_height && column < params.input_width;
            if (RESIZED) {
                row = row * params.source_height / params.input_height;
                column = column * params.source_width / params.input_width;
            }
            const u64 pixel = (u64)(item[i] * params.source_height + row) * params.source_width + column;
            copy_async_16(stage + place(at, chunk), inside ? source + pixel * stride : x, inside);
        }
#pragma unroll
        for (u32 i = 0; i < W_COPIES; i++) {
            const u32 at = line + i * LINES, row = first_column + at;
            const bool inside = row < params.channels && k < length;
            copy_async_16(stage + place(TILE_M + at, chunk), inside ? w + (u64)row * length + k : w, inside);
        }
    };
    float sums[MI][NI][4];
    if (!multiply(sums, shared, (length + TILE_K - 1) / TILE_K, fetch)) return;

    // 3. Bias, shift, activation, residual; two neighbours of y at once where pixels are whole pairs.
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const u32 row = first_row + warp_row() + i * 16 + h * 8 + lane_row();
            if (row >= params.pixels) continue;
            const u32 shift_row = row / area * params.shift_stride + params.shift_column;
#pragma unroll
            for (int j = 0; j < NI; j++) {
                const u32 n = first_column + warp_column() + j * 8 + lane_column(), o = row * params.channels + n;
                if (n >= params.channels) continue;
                float v = sums[i][j][2 * h] + read_bias(n) + read_shift(shift_row + n);
                v = activate(v) + read_residual(o);
                float next = 0.0f;
                if (n + 1 < params.channels) {
                    next = sums[i][j][2 * h + 1] + read_bias(n + 1) + read_shift(shift_row + n + 1);
                    next = activate(next) + read_residual(o + 1);
                }
                if (EVEN) {
                    *(elem2*)(y + o) = elem2{{narrow<elem>(v), narrow<elem>(next)}};
                } else {
                    write_y(o, v);
                    if (n + 1 < params.channels) write_y(o + 1, next);
                }
            }
        }
}
