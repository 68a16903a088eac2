// what:   copy_box of boxes that lie within the operand, over its end and before its beginning, chosen by COLUMNS (64 or 8)
// in/out: x [2,3,5,72] of 16 bits -> y [4096], words of 32 bits: the boxes, as they lie in shared memory
// launch: one block of 128 threads; 18432 bytes of dynamic shared memory
// work:   none to speak of
// needs:  compute capability 9.0
// error:  none: nothing is computed
// idea:   as warp.cu

struct Params {
    u32 unused;
};

constexpr u32 THREADS = 128, BOX = COLUMNS * 4 * 2 * 2, PLACE = 1024;

KERNEL __launch_bounds__(THREADS) wrapper(OPERANDS, const Params params) {
    DYNAMIC_SHARED(shared);
    u32* out = (u32*)y;
    u64* full = (u64*)shared;
    u32* words = (u32*)(shared + PLACE);
    const u32 thread = threadIdx.x;
    for (u32 i = thread; i < 4096; i += THREADS) out[i] = params.unused;
    // What no box covers stays as it is here.
    for (u32 i = thread; i < 3 * PLACE / 4; i += THREADS) words[i] = i;
    publish();
    if (thread == 0) {
        barrier_make(full, 1);
        barriers_made();
    }
    // The barrier is there, and the words.
    __syncthreads();
    if (thread == 0) {
        barrier_expect(full, 3 * BOX);
        copy_box(shared + PLACE, &boxes, 0, 1, 0, 0, full);
        copy_box(shared + 2 * PLACE, &boxes, 24, (u32)-1, 2, 1, full);
        copy_box(shared + 3 * PLACE, &boxes, (u32)-16, 3, (u32)-1, 1, full);
    }
    barrier_wait(full, 0);
    for (u32 i = thread; i < 3 * PLACE / 4; i += THREADS) out[i] = words[i];
}
