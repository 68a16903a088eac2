// what:   y = activation(conv(resize(concat(x, x2)), w) + bias + shift) + residual, as an implicit product on tensor cores
// in/out: x [B,H,W,C1], x2 [B,H,W,C2], w [Cout,KH,KW,C1+C2], bias [Cout] in f32, shift [B,T], residual [B,Ho,Wo,Cout] -> y;
//         SUMMED: moments [B,ceil(Ho Wo / TILE_M),Cout,2] in f32, mean and squared distances from it of each tile's columns
// launch: a line of ceil(B Ho Wo / TILE_M) (SUMMED: B ceil(Ho Wo / TILE_M)) * ceil(Cout / TILE_N) blocks (STREAMED: as
//         many as the device holds at once) of 32 WARPS_M WARPS_N SLICES; STAGES SLICES (TILE_M + TILE_N) 64 dynamic shared bytes
// work:   2 KH KW (C1 + C2) flop per element of y; each tap reads its map again (from L2), w read pixels / TILE_M times
// needs:  compute capability 7.5 (bf16, and f32 as tf32: 8.0), C1 and C2 multiples of CHUNK; BOXED: 9.0, stride 1, not resized
// error:  f32 sums in chunks of 16 (tf32: of 8, of operands rounded to 11 digits) of every SLICES-th step,
//         in the order of the filter, one rounding to the output's type
// idea:   the main loop of kernels/tile.cu (STREAMED: in the shares of kernels/stream.cu); a row of a is an output pixel, a
//         column a tap and channel: gathered from the map 16 bytes at a time while it is copied, zeros in the padding, so that
//         no matrix of patches is ever stored

struct Params {
    // Pixels and columns of y, and tiles along pixels.
    u32 pixels, channels, tiles_m;
    // Extents of y, of the sources as stored, and as the kernel slides over them.
    u32 height, width, source_height, source_width, input_height, input_width;
    u32 c1, c2;
    // First column of the shift, and length of its rows.
    u32 shift_column, shift_stride;
    // BOXED: rectangles of TILE_W pixels across along the width and the height of y.
    u32 tiles_x, tiles_y;
};

KERNEL __launch_bounds__(THREADS, RESIDENT) conv2d(OPERANDS, const Params params) {
    DYNAMIC_SHARED(shared);
    const u32 c = params.c1 + params.c2, length = KERNEL_HEIGHT * KERNEL_WIDTH * c;
    const u32 chunk = copy_chunk(), line = copy_line(), area = params.height * params.width;
    // BOXED: the chunks of 64 channels of each source, tap after tap.
    const u32 chunks1 = (params.c1 + 63) / 64, chunks2 = (params.c2 + 63) / 64;
    const u32 steps = BOXED ? KERNEL_HEIGHT * KERNEL_WIDTH * (chunks1 + chunks2) : (length + TILE_K - 1) / TILE_K;
    const u32 all_tiles = params.tiles_m * ((params.channels + TILE_N - 1) / TILE_N);
    auto make = [&](Part part) {
        const u32 tile = part.tile % params.tiles_m, first_column = part.tile / params.tiles_m * TILE_N;
        // BOXED: the first pixel of the tile, which is a rectangle of an item.
        const u32 box_x = BOXED ? tile % params.tiles_x * TILE_W : 0;
        const u32 box_y = BOXED ? tile / params.tiles_x % params.tiles_y * (TILE_M / TILE_W) : 0;
        const u32 box_item = BOXED ? tile / params.tiles_x / params.tiles_y : 0;
        // Moments are of one item: then no tile reaches into the next.
        const u32 item_tiles = (area + TILE_M - 1) / TILE_M, own_item = tile / item_tiles;
        const u32 first_row = SUMMED ? own_item * area + tile % item_tiles * TILE_M : tile * TILE_M;
        const u32 end_row = SUMMED ? (own_item + 1) * area : params.pixels;

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
        auto fetch = [&](u32 step, u8* stage, u64* full) {
            if (BOXED) {
                const u32 tap = step / (chunks1 + chunks2), own_chunk = step % (chunks1 + chunks2);
                const u32 row = box_y + tap / KERNEL_WIDTH - PAD_TOP, column = box_x + tap % KERNEL_WIDTH - PAD_LEFT;
                const bool second = own_chunk >= chunks1;
                // Beyond a source's channels its boxes hold zeros, whatever those of w hold.
                const u32 channel = (second ? own_chunk - chunks1 : own_chunk) * 64;
                if (second) {
                    copy_box(stage, &x2_map, channel, column, row, box_item, full);
                } else {
                    copy_box(stage, &x_map, channel, column, row, box_item, full);
                }
                copy_box(stage + TILE_M * 128, &w_map, tap * c + (second ? params.c1 : 0) + channel, first_column, 0, 0, full);
                return;
            }
            const u32 k = (part.first + step) * TILE_K + chunk * CHUNK, tap = k / c, channel = k % c;
            const bool second = channel >= params.c1;
            const elem* source = second ? x2 + (channel - params.c1) : x + channel;
            const u32 stride = second ? params.c2 : params.c1;
#pragma unroll
            for (u32 i = 0; i < A_COPIES; i++) {
                u32 row = top[i] + tap / KERNEL_WIDTH, column = left[i] + tap % KERNEL_WIDTH;
                const u32 at = line + i * LINES;
                const bool inside =
                    first_row + at < end_row && k < length && row < params.input_height && column < params.input_width;
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
        if (!multiply(sums, shared, part.end - part.first, fetch)) return;
        if (STREAMED && !combine(sums, shared, partial, (u32*)counters, part, all_tiles, steps)) return;

        // 3. Bias, shift, activation, residual; two neighbours of y at once where pixels are whole pairs.
#pragma unroll
        for (int i = 0; i < MI; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const u32 in_tile = warp_row() + i * 16 + h * 8 + lane_row();
                const u32 box_row = box_y + in_tile / TILE_W, box_column = box_x + in_tile % TILE_W;
                const bool in_box = box_row < params.height && box_column < params.width;
                const u32 row = BOXED ? (box_item * params.height + box_row) * params.width + box_column : first_row + in_tile;
                if (BOXED ? !in_box : row >= end_row) continue;
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
                    // As they are stored.
                    if (SUMMED) sums[i][j][2 * h] = widen(narrow<elem>(v)), sums[i][j][2 * h + 1] = widen(narrow<elem>(next));
                    if (EVEN) {
                        *(elem2*)(y + o) = elem2{{narrow<elem>(v), narrow<elem>(next)}};
                    } else {
                        write_y(o, v);
                        if (n + 1 < params.channels) write_y(o + 1, next);
                    }
                }
            }

        // 4. Moments of the tile's columns.
        if (SUMMED) {
            column_moments(sums, shared, end_row - first_row < TILE_M ? end_row - first_row : TILE_M,
                           [&](u32 column, float mean, float squares) {
                               const u32 n = first_column + column, to = (tile * params.channels + n) * 2;
                               if (n >= params.channels) return;
                               write_moments(to, mean);
                               write_moments(to + 1, squares);
                           });
        }
    };
    if (STREAMED) {
        stream(all_tiles, steps, make);
    } else if (linear_block() < all_tiles) {
        make(Part{linear_block(), 0, steps});
    }
}
