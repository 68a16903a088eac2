#line 2 "kernels/stream.cu"
// A product's steps in even shares: the steps of all tiles in a row are divided among blocks as many as the device holds at
// once, so that none idles through a last, half-empty wave ("stream-K": Osama et al., 2023).
//
// A tile whose steps lie in several shares is summed by each of their blocks for its own steps. All but whole tiles go to
// `partial`, and the block that is done last adds them, in the order of the steps: results repeat to the bit, whoever that is.
// Nobody waits for another block. `counters` are zero before and after.

// A tile and the steps of it that lie in a share.
struct Part {
    u32 tile, first, end;
};

// The first of `all` steps that is this block's.
DEV u32 share_begin(u32 block, u32 all) { return (u32)((u64)all * block / gridDim.x); }
// The block whose share holds a step.
DEV u32 share_of(u32 step, u32 all) { return (u32)((((u64)step + 1) * gridDim.x - 1) / all); }

// Calls `make(part)` for each part of this block's share of `tiles` tiles of `steps` steps.
template <class Make> DEV void stream(u32 tiles, u32 steps, Make make) {
    const u32 all = tiles * steps, end = share_begin(blockIdx.x + 1, all);
    for (u32 at = share_begin(blockIdx.x, all); at < end;) {
        const u32 tile = at / steps, stop = (tile + 1) * steps < end ? (tile + 1) * steps : end;
        make(Part{tile, at - tile * steps, stop - tile * steps});
        // All have done with shared memory, which the next part fills.
        __syncthreads();
        at = stop;
    }
}

// sums = the whole tile's, in the block that finishes it: the one for which it is true.
DEV bool combine(float (&sums)[MI][NI][4], u8* shared, float* partial, u32* counters, Part part, u32 tiles, u32 steps) {
    if (part.first == 0 && part.end == steps) return true;
    constexpr u32 SUMS = MI * NI * 4 * WORKERS;
    // A block has two places: for the part of a tile that another began, and for the part of one that another ends.
    float* own = partial + (u64)(blockIdx.x * 2 + (part.first > 0 ? 0 : 1)) * SUMS + worker();
#pragma unroll
    for (int n = 0; n < MI * NI * 4; n++) own[n * WORKERS] = sums[n / 4 / NI][n / 4 % NI][n % 4];
    // What this thread has written is seen by whoever sees the count.
    __threadfence();
    // All have written, and have done with shared memory.
    __syncthreads();
    const u32 all = tiles * steps, begin = part.tile * steps;
    const u32 first = share_of(begin, all), last = share_of(begin + steps - 1, all);
    if (worker() == 0) *(u32*)shared = atomicAdd(counters + part.tile, 1);
    // The count is there.
    __syncthreads();
    if (*(const u32*)shared != last - first) return false;
    __threadfence();
    if (worker() == 0) counters[part.tile] = 0;
#pragma unroll
    for (int n = 0; n < MI * NI * 4; n++) sums[n / 4 / NI][n / 4 % NI][n % 4] = 0.0f;
    for (u32 block = first; block <= last; block++) {
        const float* from = partial + (u64)(block * 2 + (share_begin(block, all) > begin ? 0 : 1)) * SUMS + worker();
#pragma unroll
        for (int n = 0; n < MI * NI * 4; n++) sums[n / 4 / NI][n / 4 % NI][n % 4] += load_fresh(from + n * WORKERS);
    }
    return true;
}

