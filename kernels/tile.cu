#line 2 "kernels/tile.cu"
// The main loop that products on tensor cores share: a ring of tiles filled by asynchronous copies.
//
// A block of 32 WARPS_M WARPS_N threads makes a TILE_M x TILE_N tile of a w^T. A stage of the ring holds TILE_K columns of the
// tile's rows of a, then of w: 64 bytes each, in four chunks of 16 that are swizzled so that neither the copies nor the
// fragments meet in a bank. Needs 16-bit elements, and compute capability 7.5 (bf16: 8.0).

constexpr u32 TILE_K = 32, THREADS = 32 * WARPS_M * WARPS_N;
constexpr u32 WARP_M = TILE_M / WARPS_M, WARP_N = TILE_N / WARPS_N;
constexpr int MI = WARP_M / 16, NI = WARP_N / 8;
constexpr u32 STAGE_BYTES = (TILE_M + TILE_N) * TILE_K * 2;
// Each thread copies one chunk of every LINES-th row: rows of a first, then rows of w.
constexpr u32 LINES = THREADS / 4, A_COPIES = TILE_M / LINES, W_COPIES = TILE_N / LINES;

// Place of 16-byte chunk c of a row in a stage: eight rows of one chunk lie in eight different groups of banks.
DEV u32 place(u32 row, u32 c) { return row * 64 + ((c ^ row >> 1) & 3) * 16; }

// Where this thread's warp works in the tile, and this thread in the tiles of its warp: it holds rows row() and row() + 8 and
// columns column() and column() + 1 of each m16n8 tile.
DEV u32 warp_row() { return threadIdx.x / 32 / WARPS_N * WARP_M; }
DEV u32 warp_column() { return threadIdx.x / 32 % WARPS_N * WARP_N; }
DEV u32 lane_row() { return (threadIdx.x & 31) / 4; }
DEV u32 lane_column() { return (threadIdx.x & 3) * 2; }

// sums = the tile's product over `steps` stages. `fetch(step, stage)` asks for the copies of a step to a stage.
template <class Fetch> DEV void multiply(float (&sums)[MI][NI][4], u8* shared, u32 steps, Fetch fetch) {
    const u32 lane = threadIdx.x & 31;

    // 1. Fill the ring but for one stage.
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NI; j++)
#pragma unroll
            for (int q = 0; q < 4; q++) sums[i][j][q] = 0.0f;
#pragma unroll
    for (u32 s = 0; s < STAGES - 1; s++) {
        if (s < steps) fetch(s, shared + s * STAGE_BYTES);
        copy_async_commit();
    }

    // 2. Products, 16 columns of k at a time.
    for (u32 step = 0; step < steps; step++) {
        copy_async_wait<STAGES - 2>();
        // This step's stage is there for all threads, and all have done with the stage that is filled next.
        __syncthreads();
        const u32 next = step + STAGES - 1;
        if (next < steps) fetch(next, shared + next % STAGES * STAGE_BYTES);
        copy_async_commit();
        const u8* tile_a = shared + step % STAGES * STAGE_BYTES;
        const u8* tile_w = tile_a + TILE_M * 64;
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 fa[MI][4], fw[NI][2];
#pragma unroll
            for (int i = 0; i < MI; i++)
                ldmatrix_x4(fa[i], tile_a + place(warp_row() + i * 16 + (lane & 15), half * 2 + (lane >> 4)));
#pragma unroll
            for (int j = 0; j < NI; j += 2) {
                u32 r[4];
                u32 row = warp_column() + j * 8 + (lane & 7) + (lane >> 4) * 8;
                ldmatrix_x4(r, tile_w + place(row, half * 2 + (lane >> 3 & 1)));
                fw[j][0] = r[0], fw[j][1] = r[1], fw[j + 1][0] = r[2], fw[j + 1][1] = r[3];
            }
            mma_tile<BF16>(sums, fa, fw);
        }
    }
}

