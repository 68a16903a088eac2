// what:   one wrapper of hopper.cu on operands that make its result exact, chosen by WRAPPER and BF16
// in/out: x [128] f32, of which nothing is read -> y [4096], words of 32 bits
// launch: one block of 128 threads; 18432 bytes of dynamic shared memory
// work:   none to speak of
// needs:  compute capability 9.0
// error:  none: small integers, whose sums are exact in any order
// idea:   as warp.cu

struct Params {
    u32 unused;
};

constexpr u32 THREADS = 128;

DEV float small(u32 n) { return (float)(n % 11) - 5.0f; }
DEV u16 element(float v) { return BF16 ? float_to_bf16(v) : float_to_f16(v); }

KERNEL __launch_bounds__(THREADS) wrapper(OPERANDS, const Params params) {
    DYNAMIC_SHARED(shared);
    u32* out = (u32*)y;
    const u32 thread = threadIdx.x;
    for (u32 i = thread; i < 4096; i += THREADS) out[i] = params.unused;
    float d[8][4];
    for (u32 j = 0; j < 8; j++)
        for (u32 q = 0; q < 4; q++) d[j][q] = small(thread + j + q);
    if (WRAPPER == 0) {
        // 64 rows of each operand, 64 elements along k, swizzled.
        for (u32 i = thread; i < 128 * 64; i += THREADS) {
            const u32 row = i / 64, k = i % 64;
            *(u16*)(shared + row * 128 + ((k / 8) ^ (row % 8)) * 16 + k % 8 * 2) = element(small(row * 5 + k * 3));
        }
        publish();
        // Both operands are there.
        __syncthreads();
        hold(d);
        products_begin();
        for (u32 k = 0; k < 4; k++)
            product<BF16>(d, swizzled_rows(shared + k * 32), swizzled_rows(shared + 64 * 128 + k * 32));
        products_commit();
        products_wait<0>();
        hold(d);
    }
    if (WRAPPER == 1) {
        // The same of k = 16, in matrices of 8x8.
        for (u32 i = thread; i < 128 * 16; i += THREADS) {
            const u32 row = i / 16, k = i % 16, chunk = k / 8;
            *(u16*)(shared + row / 64 * 2048 + chunk * 1024 + row % 64 * 16 + k % 8 * 2) = element(small(row * 5 + k * 3));
        }
        publish();
        // Both operands are there.
        __syncthreads();
        hold(d);
        products_begin();
        product<BF16>(d, matrices(shared, 128, 1024), matrices(shared + 2048, 128, 1024));
        products_commit();
        products_wait<0>();
        hold(d);
    }
    if (WRAPPER == 2) {
        // The second operand along columns: 16 of k, 64 columns.
        for (u32 i = thread; i < 16 * 64; i += THREADS) {
            const u32 k = i / 64, column = i % 64;
            *(u16*)(shared + column / 8 * 256 + k * 16 + column % 8 * 2) = element(small(column * 5 + k * 3));
        }
        publish();
        // The second operand is there.
        __syncthreads();
        u32 r[4];
        for (u32 i = 0; i < 4; i++) r[i] = pack<BF16>(small(thread * 7 + i * 3), small(thread * 5 + i * 2 + 1));
        hold(d);
        products_begin();
        product_of_registers<BF16>(d, r, matrices(shared, 256, 128));
        products_commit();
        products_wait<0>();
        hold(d);
    }
    if (WRAPPER == 3) {
        // Two phases of a barrier, between which each thread reads what its neighbour wrote.
        u64* barrier = (u64*)shared;
        u32* cells = (u32*)(shared + 1024);
        if (thread == 0) {
            barrier_make(barrier, THREADS);
            barriers_made();
        }
        // The barrier is there.
        __syncthreads();
        for (u32 phase = 0; phase < 4; phase++) {
            cells[phase * THREADS + thread] = thread * 3 + phase;
            barrier_arrive(barrier);
            barrier_wait(barrier, phase & 1);
            d[phase][0] = (float)cells[phase * THREADS + (thread + 37) % THREADS];
        }
    }
    for (u32 j = 0; j < 8; j++)
        for (u32 q = 0; q < 4; q++) out[(thread * 8 + j) * 4 + q] = __float_as_uint(d[j][q]);
}
