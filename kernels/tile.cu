#line 2 "kernels/tile.cu"
// The main loop that products on tensor cores share: a ring of tiles filled by asynchronous copies.
//
// A block makes a TILE_M x TILE_N tile of a w^T. Its threads are SLICES groups of 32 WARPS_M WARPS_N, each of which sums every
// SLICES-th step of k: more of them hide more of memory's latency where tiles are few. A stage of the ring holds, for each
// slice, TILE_K columns of the tile's rows of a, then of w: 64 bytes each, in four chunks of 16 that are swizzled so that
// neither the copies nor the fragments meet in a bank. 16-bit elements need compute capability 7.5 (bf16: 8.0); f32, which is
// rounded to tf32, needs 8.0: a chunk of four takes the place of one of eight everywhere.

constexpr u32 CHUNK = 16 / sizeof(elem), TILE_K = 4 * CHUNK, SLICE = 32 * WARPS_M * WARPS_N, THREADS = SLICE * SLICES;
// Blocks of a processor that registers leave room for: said so that the compiler spills nothing to fit one more.
constexpr u32 RESIDENT = THREADS < 384 ? 384 / THREADS : 1;
constexpr u32 WARP_M = TILE_M / WARPS_M, WARP_N = TILE_N / WARPS_N;
constexpr int MI = WARP_M / 16, NI = WARP_N / 8;
constexpr u32 STAGE_BYTES = (TILE_M + TILE_N) * 64;
// Each thread copies one chunk of every LINES-th row: rows of a first, then rows of w.
constexpr u32 LINES = SLICE / 4, A_COPIES = TILE_M / LINES, W_COPIES = TILE_N / LINES;

// Place of 16-byte chunk c of a row in a stage: eight rows of one chunk lie in eight different groups of banks.
DEV u32 place(u32 row, u32 c) { return row * 64 + ((c ^ row >> 1) & 3) * 16; }

// Where this thread's warp works in the tile, and this thread in the tiles of its warp: it holds rows row() and row() + 8 and
// columns column() and column() + 1 of each m16n8 tile.
// The threads for which `multiply` is true, and this one's number among them.
constexpr u32 WORKERS = SLICE;
DEV u32 worker() { return threadIdx.x; }
DEV u32 slice() { return SLICES > 1 ? threadIdx.x / SLICE : 0; }
// The chunk that this thread copies, of every LINES-th row from this one on.
DEV u32 copy_chunk() { return threadIdx.x & 3; }
DEV u32 copy_line() { return threadIdx.x % SLICE / 4; }
DEV u32 warp_row() { return threadIdx.x % SLICE / 32 / WARPS_N * WARP_M; }
DEV u32 warp_column() { return threadIdx.x / 32 % WARPS_N * WARP_N; }
DEV u32 lane_row() { return (threadIdx.x & 31) / 4; }
DEV u32 lane_column() { return (threadIdx.x & 3) * 2; }

// Boxes are copied by kernels/warpgroup.cu only.
#ifndef EMULATED
template <class Map> DEV void copy_box(void*, const Map*, u32, u32, u32, u32, u64*) {}
#endif

DEV void multiply_fragments(float (&sums)[MI][NI][4], const u32 (&a)[MI][4], const u32 (&w)[NI][2]) {
    if (sizeof(elem) == 4) {
        mma_tile_tf32(sums, a, w);
    } else {
        mma_tile<BF16>(sums, a, w);
    }
}

// sums = the tile's product over `all_steps` steps of k, in the threads of the first slice: those for which it is true.
// `fetch(step, stage, full)` asks for the copies of a step to a stage, with zeros beyond the end of k.
template <class Fetch> DEV bool multiply(float (&sums)[MI][NI][4], u8* shared, u32 all_steps, Fetch fetch) {
    const u32 lane = threadIdx.x & 31, steps = (all_steps + SLICES - 1) / SLICES;
    auto stage_of = [&](u32 step) -> u8* { return shared + (step % STAGES * SLICES + slice()) * STAGE_BYTES; };

    // 1. Fill the ring but for one stage.
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NI; j++)
#pragma unroll
            for (int q = 0; q < 4; q++) sums[i][j][q] = 0.0f;
#pragma unroll
    for (u32 s = 0; s < STAGES - 1; s++) {
        if (s < steps) fetch(s * SLICES + slice(), stage_of(s), (u64*)nullptr);
        copy_async_commit();
    }

    // 2. Products, two chunks of k at a time.
    for (u32 step = 0; step < steps; step++) {
        copy_async_wait<STAGES - 2>();
        // This step's stage is there for all threads, and all have done with the stage that is filled next.
        __syncthreads();
        const u32 next = step + STAGES - 1;
        if (next < steps) fetch(next * SLICES + slice(), stage_of(next), (u64*)nullptr);
        copy_async_commit();
        const u8* tile_a = stage_of(step);
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
            multiply_fragments(sums, fa, fw);
        }
    }
    // 3. Sums of the other slices, in their order: results repeat to the bit.
    if (SLICES > 1) {
        float* others = (float*)shared;
        const u32 thread = threadIdx.x % SLICE;
        // All have done with the ring, whose place the sums take.
        __syncthreads();
#pragma unroll
        for (int i = 0; i < MI; i++)
#pragma unroll
            for (int j = 0; j < NI; j++)
#pragma unroll
                for (int q = 0; q < 4; q++) {
                    const u32 at = ((i * NI + j) * 4 + q) * SLICE + thread;
                    if (slice() > 0) others[(slice() - 1) * (MI * NI * 4 * SLICE) + at] = sums[i][j][q];
                }
        // The sums are there.
        __syncthreads();
        if (slice() > 0) return false;
#pragma unroll
        for (int i = 0; i < MI; i++)
#pragma unroll
            for (int j = 0; j < NI; j++)
#pragma unroll
                for (int q = 0; q < 4; q++)
#pragma unroll
                    for (u32 other = 0; other < SLICES - 1; other++)
                        sums[i][j][q] += others[(other * (MI * NI * 4) + (i * NI + j) * 4 + q) * SLICE + thread];
    }
    return true;
}

