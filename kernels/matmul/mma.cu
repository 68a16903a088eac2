// what:   y = activation(a w^T + bias) + residual, or value * gelu(gate) + residual, on tensor cores
// in/out: a [items,M,K], w [C,K] or [items,C,K], bias [C] in f32, residual [items,M,N] -> y [items,M,N]; C = N, or 2 N with a
//         gate: 8 rows of values, then the 8 of their gates, in turn
// launch: a line of items * ceil(M / TILE_M) * ceil(C / TILE_N) blocks (STREAMED: as many as the device holds at once) of
//         32 WARPS_M WARPS_N SLICES; STAGES SLICES (TILE_M + TILE_N) 64 dynamic shared bytes
// work:   2 K flop per element of a [M,C] product; a read C / TILE_N times, w M / TILE_M times (from L2), y written once
// needs:  compute capability 7.5 (bf16, and f32 as tf32: 8.0), K a multiple of CHUNK, N of 8 with a gate
// error:  f32 sums in chunks of 16 (tf32: of 8, of operands rounded to 11 digits) of every SLICES-th step,
//         in the order of k, one rounding to the output's type
// idea:   the main loop of kernels/tile.cu (STREAMED: in the shares of kernels/stream.cu) over rows of a and w, and the epilogue
//         on the accumulators

struct Params {
    u32 items, m, n, k;
    // Columns of the product, and tiles along rows and columns.
    u32 columns, tiles_m, tiles_n;
};

KERNEL __launch_bounds__(THREADS, RESIDENT) matmul(OPERANDS, const Params params) {
    DYNAMIC_SHARED(shared);
    const u32 tiles = params.tiles_m * params.tiles_n, all_tiles = params.items * tiles;
    const u32 steps = (params.k + TILE_K - 1) / TILE_K;
    auto make = [&](Part part) {
        // Neighbouring blocks share a tile of w.
        const u32 id = part.tile % tiles, item = part.tile / tiles;
        const u32 first_row = id % params.tiles_m * TILE_M, first_column = id / params.tiles_m * TILE_N;
        const elem* own_a = a + (u64)item * params.m * params.k;
        const elem* own_w = w + (BATCHED ? (u64)item * params.columns * params.k : 0);

        // 1. The product. Beyond the edges, zeros.
        const u32 chunk = copy_chunk(), line = copy_line();
        auto fetch = [&](u32 step, u8* stage, u64* full) {
            if (BOXED) {
                copy_box(stage, &a_map, step * TILE_K, first_row, item, 0, full);
                copy_box(stage + TILE_M * 128, &w_map, step * TILE_K, first_column, BATCHED ? item : 0, 0, full);
                return;
            }
            const u32 k = (part.first + step) * TILE_K + chunk * CHUNK;
#pragma unroll
            for (u32 i = 0; i < A_COPIES; i++) {
                const u32 at = line + i * LINES, row = first_row + at;
                const bool inside = row < params.m && k < params.k;
                copy_async_16(stage + place(at, chunk), inside ? own_a + (u64)row * params.k + k : own_a, inside);
            }
#pragma unroll
            for (u32 i = 0; i < W_COPIES; i++) {
                const u32 at = line + i * LINES, row = first_column + at;
                const bool inside = row < params.columns && k < params.k;
                copy_async_16(stage + place(TILE_M + at, chunk), inside ? own_w + (u64)row * params.k + k : own_w, inside);
            }
        };
        float sums[MI][NI][4];
        if (!multiply(sums, shared, part.end - part.first, fetch)) return;
        if (STREAMED && !combine(sums, shared, partial, (u32*)counters, part, all_tiles, steps)) return;

        // 2. Bias, activation or gate, residual; two neighbours of y at once where rows are whole pairs.
        auto finish = [&](u32 row, u32 column, float v0, float v1) {
            const u32 o = (item * params.m + row) * params.n + column;
            if (EVEN) {
                v0 += read_residual(o), v1 += read_residual(o + 1);
                *(elem2*)(y + o) = elem2{{narrow<elem>(v0), narrow<elem>(v1)}};
                return;
            }
            write_y(o, v0 + read_residual(o));
            if (column + 1 < params.n) write_y(o + 1, v1 + read_residual(o + 1));
        };
#pragma unroll
        for (int i = 0; i < MI; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const u32 row = first_row + warp_row() + i * 16 + h * 8 + lane_row();
                if (row >= params.m) continue;
#pragma unroll
                for (int j = 0; j < NI; j += GATED ? 2 : 1) {
                    const u32 column = first_column + warp_column() + j * 8 + lane_column();
                    if (column >= params.columns) continue;
                    // The last column of an odd count has no neighbour, and no bias for it.
                    const u32 next = column + 1 < params.columns ? column + 1 : column;
                    float v0 = sums[i][j][2 * h] + read_bias(column), v1 = sums[i][j][2 * h + 1] + read_bias(next);
                    if (GATED) {
                        v0 *= gelu(sums[i][j + 1][2 * h] + read_bias(column + 8));
                        v1 *= gelu(sums[i][j + 1][2 * h + 1] + read_bias(column + 9));
                        finish(row, column / 16 * 8 + column % 8, v0, v1);
                    } else {
                        finish(row, column, activate(v0), activate(v1));
                    }
                }
            }
    };
    if (STREAMED) {
        stream(all_tiles, steps, make);
    } else if (linear_block() < all_tiles) {
        make(Part{linear_block(), 0, steps});
    }
}
