// what:   group norm of one or two sources, modulation, activation: one block per clip and group, kept on chip
// in/out: x [items, positions, c1], x2 [items, positions, c2] -> y [items, positions, c1+c2]; weight, bias [c1+c2];
//         modulation [items, stride]; `frames` items make a clip
// launch: a line of clips * groups blocks of BLOCK (a power of two, 1024 at most); CAPACITY elements of dynamic shared memory
// work:   8 flop and the activation's per element; x read once, y written once
// needs:  a group's elements in shared memory; WIDTH, c1 and c2 multiples of LANES
// error:  f32 sums of count / BLOCK terms about 0 and about the mean, then a tree
// idea:   as simple, with the elements read once into shared memory, as they are stored, where the three sweeps find them;
//         LANES of them at a time (16 bytes where the group's width allows); sums go through the registers of each warp, then
//         through one value per warp

struct Params {
    // Of the whole launch.
    u32 clips, groups;
    // Of one item, and of one clip.
    u32 positions, clip_positions;
    u32 c1, c2;
    // First column and row length of the modulation.
    u32 column, stride;
};

typedef Vec<elem, LANES> Pack;

// Sum of one value per thread, the same for all.
DEV float total(float value, float* partial) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
    // Protects the parts of an earlier sum until everyone has read them.
    __syncthreads();
    if ((threadIdx.x & 31) == 0) partial[threadIdx.x / 32] = value;
    // Protects the parts until every warp has written its own.
    __syncthreads();
    value = (threadIdx.x & 31) < BLOCK / 32 ? partial[threadIdx.x & 31] : 0.0f;
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

KERNEL __launch_bounds__(BLOCK) group_norm(OPERANDS, const Params params) {
    DYNAMIC_SHARED(shared);
    float* partial = (float*)(shared + CAPACITY * sizeof(elem));
    // Pack i belongs to thread i % BLOCK alone, so no barrier protects it.
    Pack* kept = (Pack*)shared;
    const u32 id = linear_block();
    if (id >= params.clips * params.groups) return;
    const u32 first_position = id / params.groups * params.clip_positions, first_channel = id % params.groups * WIDTH;
    const u32 packs = params.clip_positions * (WIDTH / LANES), channels = params.c1 + params.c2;
    const float count = (float)packs * LANES;

    // 1. Mean, while the elements come in.
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < packs; i += BLOCK) {
        const u32 position = first_position + i / (WIDTH / LANES), channel = first_channel + i % (WIDTH / LANES) * LANES;
        const elem* from = channel < params.c1 ? x + (position * params.c1 + channel)
                                               : x2 + (position * params.c2 + (channel - params.c1));
        const Pack pack = *(const Pack*)from;
        kept[i] = pack;
#pragma unroll
        for (u32 k = 0; k < LANES; k++) sum += widen(pack.v[k]);
    }
    const float mean = quotient(total(sum, partial), count);

    // 2. Variance about the mean.
    float squares = 0.0f;
    for (u32 i = threadIdx.x; i < packs; i += BLOCK) {
        const Pack pack = kept[i];
#pragma unroll
        for (u32 k = 0; k < LANES; k++) {
            const float d = widen(pack.v[k]) - mean;
            squares += d * d;
        }
    }
    const float scale = rsqrtf(quotient(total(squares, partial), count) + EPS);

    // 3. Result.
    for (u32 i = threadIdx.x; i < packs; i += BLOCK) {
        const u32 position = first_position + i / (WIDTH / LANES), channel = first_channel + i % (WIDTH / LANES) * LANES;
        const u32 m = position / params.positions * params.stride + params.column + channel;
        Pack pack = kept[i];
#pragma unroll
        for (u32 k = 0; k < LANES; k++) {
            float v = (widen(pack.v[k]) - mean) * scale * read_weight(channel + k) + read_bias(channel + k);
            v = v * (1.0f + read_modulation(m + k)) + read_modulation(m + channels + k);
            pack.v[k] = narrow<elem>(activate(v));
        }
        *(Pack*)(y + (position * channels + channel)) = pack;
    }
}
