#line 2 "kernels/warpgroup.cu"
// The main loop of products on the tensor cores of compute capability 9.0: one warpgroup copies, the others multiply.
//
// It stands in for kernels/tile.cu and says the same words. A block makes a TILE_M x TILE_N tile of a w^T: warpgroup 0 fills a
// ring of stages by asynchronous copies (BOXED: one thread of it, by copies of boxes), each other one sums 64 rows. A stage
// holds TILE_K columns of the tile's rows of a, then of w: 128 bytes each, in eight chunks of 16 that are swizzled as the
// products want them. Two barriers a stage hand it over: `full` by every thread that copies (BOXED: by the one, and the bytes
// that come), `empty` by every warp that multiplies.

constexpr u32 CHUNK = 8, TILE_K = 64, GROUPS = TILE_M / 64, THREADS = 128 * (1 + GROUPS), RESIDENT = 1;
constexpr int MI = 1, NI = TILE_N / 8;
constexpr u32 STAGE_BYTES = (TILE_M + TILE_N) * 128;
// Each copying thread copies one chunk of every LINES-th row: rows of a first, then rows of w.
constexpr u32 LINES = 16, A_COPIES = TILE_M / LINES, W_COPIES = TILE_N / LINES;
// Stages that are asked for before the first of them must have come. Two less than all: a stage is given back only when the
// next one's products have begun.
constexpr u32 AHEAD = STAGES - 2;

// The threads for which `multiply` is true, and this one's number among them.
constexpr u32 WORKERS = 128 * GROUPS;
DEV u32 worker() { return threadIdx.x - 128; }
DEV u32 place(u32 row, u32 c) { return row * 128 + ((c ^ row) & 7) * 16; }
DEV u32 copy_chunk() { return threadIdx.x & 7; }
DEV u32 copy_line() { return threadIdx.x % 128 / 8; }
DEV u32 group() { return threadIdx.x / 128; }
DEV u32 warp_row() { return (group() - 1) * 64 + threadIdx.x % 128 / 32 * 16; }
DEV u32 warp_column() { return 0; }
DEV u32 lane_row() { return (threadIdx.x & 31) / 4; }
DEV u32 lane_column() { return (threadIdx.x & 3) * 2; }

// sums = the tile's product over `steps` steps of k, in the threads that multiply: those for which it is true.
// `fetch(step, stage, full)` asks for the copies of a step to a stage, with zeros beyond the end of k.
template <class Fetch> DEV bool multiply(float (&sums)[MI][NI][4], u8* shared, u32 steps, Fetch fetch) {
    u64* full = (u64*)(shared + STAGES * STAGE_BYTES);
    u64* empty = full + STAGES;
    if (threadIdx.x == 0) {
        for (u32 s = 0; s < STAGES; s++) barrier_make(full + s, BOXED ? 1 : 128), barrier_make(empty + s, 4 * GROUPS);
        barriers_made();
    }
    // The barriers are there.
    __syncthreads();

    // 1. Copies. A stage is handed over AHEAD steps after it was asked for, when the copies of its thread have come.
    if (group() == 0) {
        fewer_registers<COPY_REGISTERS>();
        if (BOXED) {
            // One thread asks for the boxes.
            for (u32 step = 0; threadIdx.x == 0 && step < steps; step++) {
                // The products of the step that had this stage before are done.
                if (step >= STAGES) barrier_wait(empty + step % STAGES, (step / STAGES - 1) & 1);
                barrier_expect(full + step % STAGES, STAGE_BYTES);
                fetch(step, shared + step % STAGES * STAGE_BYTES, full + step % STAGES);
            }
        } else {
            for (u32 step = 0; step < steps + AHEAD; step++) {
                if (step < steps) {
                    // The products of the step that had this stage before are done.
                    if (step >= STAGES) barrier_wait(empty + step % STAGES, (step / STAGES - 1) & 1);
                    fetch(step, shared + step % STAGES * STAGE_BYTES, full);
                }
                copy_async_commit();
                if (step < AHEAD) continue;
                copy_async_wait<AHEAD>();
                publish();
                barrier_arrive(full + (step - AHEAD) % STAGES);
            }
        }
        return false;
    }

    // 2. Products, one step behind their completion.
    more_registers<SUM_REGISTERS>();
#pragma unroll
    for (int j = 0; j < NI; j++)
#pragma unroll
        for (int q = 0; q < 4; q++) sums[0][j][q] = 0.0f;
    for (u32 step = 0; step < steps; step++) {
        barrier_wait(full + step % STAGES, step / STAGES & 1);
        const u8* tile_a = shared + step % STAGES * STAGE_BYTES + (group() - 1) * 64 * 128;
        const u8* tile_w = shared + step % STAGES * STAGE_BYTES + TILE_M * 128;
        hold(sums[0]);
        products_begin();
#pragma unroll
        for (u32 k = 0; k < 4; k++) product<BF16>(sums[0], swizzled_rows(tile_a + k * 32), swizzled_rows(tile_w + k * 32));
        products_commit();
        hold(sums[0]);
        products_wait<1>();
        if (step > 0 && threadIdx.x % 32 == 0) barrier_arrive(empty + (step - 1) % STAGES);
    }
    products_wait<0>();
    hold(sums[0]);
    return true;
}

