// what:   y = activation(a w^T + bias) + residual, or value * gelu(gate) + residual, on tensor cores
// in/out: a [items,M,K], w [C,K] or [items,C,K], bias [C] in f32, residual [items,M,N] -> y [items,M,N]; C = N, or 2 N with a
//         gate: 8 rows of values, then the 8 of their gates, in turn
// launch: a line of items * ceil(M / TILE_M) * ceil(C / TILE_N) blocks of 32 WARPS_M WARPS_N;
//         STAGES (TILE_M + TILE_N) 64 dynamic shared bytes
// work:   2 K flop per element of a [M,C] product; a read C / TILE_N times, w M / TILE_M times (from L2), y written once
// needs:  f16 or bf16, compute capability 8.0, K a multiple of 8, N of 8 with a gate
// error:  f32 sums in chunks of 16 in the order of k, one rounding to the output's type
// idea:   a ring of STAGES tiles of 32 columns is filled by asynchronous copies while tensor cores work on the oldest; rows of
//         64 bytes are swizzled so that neither copies nor fragments meet in a bank; the epilogue runs on the accumulators

struct Params {
    u32 items, m, n, k;
    // Columns of the product, and tiles along rows and columns.
    u32 columns, tiles_m, tiles_n;
};

constexpr u32 TILE_K = 32, THREADS = 32 * WARPS_M * WARPS_N;
constexpr u32 WARP_M = TILE_M / WARPS_M, WARP_N = TILE_N / WARPS_N;
constexpr int MI = WARP_M / 16, NI = WARP_N / 8;
constexpr u32 STAGE_BYTES = (TILE_M + TILE_N) * TILE_K * 2;

// Place of 16-byte chunk c of a row in a tile: eight rows of one chunk lie in eight different groups of banks.
DEV u32 place(u32 row, u32 c) { return row * 64 + ((c ^ row >> 1) & 3) * 16; }

KERNEL __launch_bounds__(THREADS) matmul(OPERANDS, const Params params) {
    DYNAMIC_SHARED(shared);
    const u32 thread = threadIdx.x, lane = thread & 31, warp = thread / 32;
    const u32 warp_row = warp / WARPS_N * WARP_M, warp_column = warp % WARPS_N * WARP_N;
    // Neighbouring blocks share a tile of w.
    const u32 id = linear_block(), in_item = id % (params.tiles_m * params.tiles_n), item = id / (params.tiles_m * params.tiles_n);
    if (item >= params.items) return;
    const u32 first_row = in_item % params.tiles_m * TILE_M, first_column = in_item / params.tiles_m * TILE_N;
    const elem* own_a = a + (u64)item * params.m * params.k;
    const elem* own_w = w + (BATCHED ? (u64)item * params.columns * params.k : 0);
    const u32 steps = (params.k + TILE_K - 1) / TILE_K;

    // Asks for the tiles of a step; zeros beyond the edges. Each thread copies the same chunk of every few rows.
    auto fetch = [&](u32 step) {
        u8* stage = shared + step % STAGES * STAGE_BYTES;
        const u32 chunk = thread & 3, k = step * TILE_K + chunk * 8;
#pragma unroll
        for (u32 i = 0; i < (TILE_M + TILE_N) * 4 / THREADS; i++) {
            const u32 line = thread / 4 + i * (THREADS / 4);
            const bool of_a = line < TILE_M;
            const u32 row = of_a ? first_row + line : first_column + line - TILE_M;
            const bool inside = row < (of_a ? params.m : params.columns) && k < params.k;
            const elem* from = of_a ? own_a : own_w;
            copy_async_16(stage + place(line, chunk), inside ? from + (u64)row * params.k + k : from, inside);
        }
    };

    // 1. Fill the ring but for one stage.
    float sums[MI][NI][4];
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NI; j++)
#pragma unroll
            for (int q = 0; q < 4; q++) sums[i][j][q] = 0.0f;
#pragma unroll
    for (u32 s = 0; s < STAGES - 1; s++) {
        if (s < steps) fetch(s);
        copy_async_commit();
    }

    // 2. Products, 16 columns of k at a time.
    for (u32 step = 0; step < steps; step++) {
        copy_async_wait<STAGES - 2>();
        // This step's tiles are there for all threads, and all have done with the stage that is filled next.
        __syncthreads();
        if (step + STAGES - 1 < steps) fetch(step + STAGES - 1);
        copy_async_commit();
        const u8* tile_a = shared + step % STAGES * STAGE_BYTES;
        const u8* tile_w = tile_a + TILE_M * 64;
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 fa[MI][4], fw[NI][2];
#pragma unroll
            for (int i = 0; i < MI; i++)
                ldmatrix_x4(fa[i], tile_a + place(warp_row + i * 16 + (lane & 15), half * 2 + (lane >> 4)));
#pragma unroll
            for (int j = 0; j < NI; j += 2) {
                u32 r[4];
                ldmatrix_x4(r, tile_w + place(warp_column + j * 8 + (lane & 7) + (lane >> 4) * 8, half * 2 + (lane >> 3 & 1)));
                fw[j][0] = r[0], fw[j][1] = r[1], fw[j + 1][0] = r[2], fw[j + 1][1] = r[3];
            }
            mma_tile<BF16>(sums, fa, fw);
        }
    }

    // 3. Bias, activation or gate, residual; two neighbours of y at once where rows are whole pairs.
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
            const u32 row = first_row + warp_row + i * 16 + h * 8 + lane / 4;
            if (row >= params.m) continue;
#pragma unroll
            for (int j = 0; j < NI; j += GATED ? 2 : 1) {
                const u32 column = first_column + warp_column + j * 8 + (lane & 3) * 2;
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
}
