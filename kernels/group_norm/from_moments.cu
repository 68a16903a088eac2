// what:   mean and squared distances of each group of each clip, from moments that came with the sources; before the result of
//         kernels/group_norm/two_pass.cu
// in/out: moments [items, tiles, c1, 2], moments2 [items, tiles2, c2, 2] in f32, of tiles of `rows` and `rows2` positions
//         -> partial [clips, groups, 2]; FRAMES items make a clip
// launch: a line of clips * groups blocks of BLOCK; 12 BLOCK / 32 dynamic shared bytes
// work:   about 12 flop for each channel of a tile; the moments read once
// needs:  every source's producer makes moments
// error:  Chan's combination in f32, in an order that is fixed: results repeat to the bit
// idea:   the sources were in registers when they were made: their norm need not read them for its sums

struct MomentsParams {
    Params own;
    // Tiles of an item of each source, and positions of a tile.
    u32 tiles, rows, tiles2, rows2;
};

KERNEL __launch_bounds__(BLOCK) group_norm_moments(OPERANDS, const MomentsParams params) {
    DYNAMIC_SHARED(shared);
    const Params& own = params.own;
    const u32 id = linear_block();
    if (id >= own.clips * own.groups) return;
    const u32 first = id % own.groups * WIDTH, item = id / own.groups * FRAMES, lane = threadIdx.x & 31;

    // 1. Every BLOCK-th tile of a channel, neighbours in memory by neighbouring threads. A group may lie in both sources.
    Moments m = {0.0f, 0.0f, 0.0f};
    const u32 most = params.tiles > params.tiles2 ? params.tiles : params.tiles2;
    for (u32 i = threadIdx.x; i < FRAMES * most * WIDTH; i += BLOCK) {
        const u32 channel = first + i % WIDTH, tile = i / WIDTH % most, frame = item + i / WIDTH / most;
        const bool second = channel >= own.c1;
        const u32 tiles = second ? params.tiles2 : params.tiles, rows = second ? params.rows2 : params.rows;
        if (tile >= tiles) continue;
        const u32 rest = own.positions - tile * rows;
        const u32 from = second ? ((frame * tiles + tile) * own.c2 + channel - own.c1) * 2
                                : ((frame * tiles + tile) * own.c1 + channel) * 2;
        const Vec<float, 2> part = *(const Vec<float, 2>*)((second ? moments2 : moments) + from);
        m = together(m, Moments{(float)(rest < rows ? rest : rows), part.v[0], part.v[1]});
    }

    // 2. The threads' together, then the warps'.
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        Moments other;
        other.count = __shfl_down_sync(0xffffffffu, m.count, distance);
        other.mean = __shfl_down_sync(0xffffffffu, m.mean, distance);
        other.squares = __shfl_down_sync(0xffffffffu, m.squares, distance);
        m = together(m, other);
    }
    Moments* warps = (Moments*)shared;
    if (lane == 0) warps[threadIdx.x / 32] = m;
    // The warps' moments are there.
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (u32 w = 1; w < BLOCK / 32; w++) m = together(m, warps[w]);
    partial[id * 2] = m.mean;
    partial[id * 2 + 1] = m.squares;
}
