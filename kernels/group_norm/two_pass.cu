// what:   group norm of one or two sources, modulation, activation: statistics of chunks, then the result
// in/out: x [items, positions, c1], x2 [items, positions, c2] -> y [items, positions, c1+c2]; weight, bias [c1+c2];
//         modulation [items, stride]; `frames` items make a clip; partial [clips, chunks, groups, 2] is scratch
// launch: twice: a line of clips * chunks * slabs blocks of BLOCK; (8 BLOCK + SLAB) 8 and 8 SLAB / WIDTH dynamic shared bytes
// work:   10 flop and the activation's per element; x read twice (the second time from L2 where it fits), y written once
// needs:  c1 and c2 multiples of 8; SLAB, of whole groups, a multiple of 8 and at most 8 BLOCK
// error:  f32 sums of chunk / LINES terms about the chunk's first element of the channel, Chan's combination of channels and
//         of chunks: no cancellation where mean >> deviation. Orders are fixed, so results repeat to the bit
// idea:   a thread keeps to eight neighbouring channels, 16 bytes at a time, whatever the groups' width: sums are of channels,
//         and become sums of groups when there is only one a channel. A slab is contiguous, and large maps fill the device

struct Params {
    // Clips and chunks of each, positions of a chunk, of an item and of a clip.
    u32 clips, chunks, chunk, positions, clip_positions;
    u32 groups, slabs;
    u32 c1, c2;
    // First column and row length of the modulation.
    u32 column, stride;
    // Parts of a clip that have partial sums, and positions of each: the chunks, or one whole.
    u32 parts, part;
};

constexpr u32 OCTETS = SLAB / 8, LINES = BLOCK / OCTETS, SLAB_GROUPS = SLAB / WIDTH;
typedef Vec<elem, 8> Octet;

// Mean of `count` numbers, and the sum of their squared distances from it.
struct Moments {
    float count, mean, squares;
};

// Moments of two sets together (Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm", 1979).
DEV Moments together(Moments a, Moments b) {
    const float count = a.count + b.count, part = count > 0.0f ? quotient(b.count, count) : 0.0f, d = b.mean - a.mean;
    return Moments{count, a.mean + d * part, a.squares + b.squares + d * d * a.count * part};
}

// Where a thread works: eight channels of a slab, and every LINES-th position of a chunk from `position` to `end`.
struct Place {
    bool works;
    u32 clip, chunk, slab, line, octet, channel, position, end;
};

DEV Place place(const Params& params) {
    const u32 id = linear_block();
    Place p;
    p.slab = id % params.slabs, p.chunk = id / params.slabs % params.chunks, p.clip = id / params.slabs / params.chunks;
    p.octet = threadIdx.x % OCTETS, p.line = threadIdx.x / OCTETS;
    p.channel = p.slab * SLAB + p.octet * 8;
    p.works = p.line < LINES && p.channel < params.c1 + params.c2;
    const u32 end = (p.chunk + 1) * params.chunk, first = p.clip * params.clip_positions;
    p.position = first + p.chunk * params.chunk + p.line;
    p.end = first + (end < params.clip_positions ? end : params.clip_positions);
    return p;
}

// This thread's octet at a position.
#define SOURCE(p, at)                                               \
    *(const Octet*)((p).channel < params.c1 ? x + ((at) * params.c1 + (p).channel) \
                                            : x2 + ((at) * params.c2 + ((p).channel - params.c1)))

KERNEL __launch_bounds__(BLOCK, 2) group_norm_statistics(OPERANDS, const Params params) {
    DYNAMIC_SHARED(shared);
    // Sums and sums of squares of each line and channel, about the chunk's first element; then moments of each channel.
    float* sums = (float*)shared;
    float* squares = sums + BLOCK * 8;
    float* means = squares + BLOCK * 8;
    float* spreads = means + SLAB;
    if (linear_block() >= params.clips * params.chunks * params.slabs) return;
    const Place p = place(params);
    const u32 first = p.position - p.line, count = p.end - first;

    // 1. Sums of each channel.
    Octet base;
    if (p.works) {
        base = SOURCE(p, first);
        float sum[8] = {}, square[8] = {};
        for (u32 at = p.position; at < p.end; at += LINES) {
            const Octet octet = SOURCE(p, at);
#pragma unroll
            for (int k = 0; k < 8; k++) {
                const float d = widen(octet.v[k]) - widen(base.v[k]);
                sum[k] += d;
                square[k] += d * d;
            }
        }
        const u32 slot = p.line * SLAB + p.octet * 8;
#pragma unroll
        for (int k = 0; k < 8; k++) sums[slot + k] = sum[k], squares[slot + k] = square[k];
    }
    // All lines have written their sums.
    __syncthreads();

    // 2. Moments of each channel, by the threads of the first line.
    if (p.works && p.line == 0) {
        for (u32 k = 0; k < 8; k++) {
            const u32 channel = p.octet * 8 + k;
            float sum = 0.0f, square = 0.0f;
            for (u32 line = 0; line < LINES; line++) {
                sum += sums[line * SLAB + channel];
                square += squares[line * SLAB + channel];
            }
            means[channel] = widen(base.v[k]) + quotient(sum, count);
            spreads[channel] = fmaxf(square - quotient(sum * sum, count), 0.0f);
        }
    }
    // The channels' moments are there.
    __syncthreads();

    // 3. Moments of each group.
    for (u32 g = threadIdx.x; g < SLAB_GROUPS; g += BLOCK) {
        const u32 group = p.slab * SLAB_GROUPS + g;
        if (group >= params.groups) break;
        Moments m = {0.0f, 0.0f, 0.0f};
        for (u32 c = g * WIDTH; c < (g + 1) * WIDTH; c++) m = together(m, Moments{(float)count, means[c], spreads[c]});
        const u32 to = ((p.clip * params.chunks + p.chunk) * params.groups + group) * 2;
        partial[to] = m.mean;
        partial[to + 1] = m.squares;
    }
}

KERNEL __launch_bounds__(BLOCK, 2) group_norm(OPERANDS, const Params params) {
    DYNAMIC_SHARED(shared);
    // Mean and scale of the slab's groups.
    float* means = (float*)shared;
    float* scales = means + SLAB_GROUPS;
    if (linear_block() >= params.clips * params.chunks * params.slabs) return;
    const Place p = place(params);
    const u32 lane = threadIdx.x & 31, channels = params.c1 + params.c2;

    // 1. Moments of each group over all chunks, a warp each.
    for (u32 g = threadIdx.x / 32; g < SLAB_GROUPS; g += BLOCK / 32) {
        const u32 group = p.slab * SLAB_GROUPS + g;
        if (group >= params.groups) break;
        Moments m = {0.0f, 0.0f, 0.0f};
        for (u32 part = lane; part < params.parts; part += 32) {
            const u32 from = ((p.clip * params.parts + part) * params.groups + group) * 2;
            const u32 rest = params.clip_positions - part * params.part;
            const float count = (float)((rest < params.part ? rest : params.part) * WIDTH);
            m = together(m, Moments{count, partial[from], partial[from + 1]});
        }
#pragma unroll
        for (int distance = 16; distance > 0; distance /= 2) {
            Moments other;
            other.count = __shfl_down_sync(0xffffffffu, m.count, distance);
            other.mean = __shfl_down_sync(0xffffffffu, m.mean, distance);
            other.squares = __shfl_down_sync(0xffffffffu, m.squares, distance);
            m = together(m, other);
        }
        if (lane == 0) means[g] = m.mean, scales[g] = rsqrtf(quotient(m.squares, m.count) + EPS);
    }
    // The groups' means and scales are there.
    __syncthreads();
    if (!p.works) return;

    // 2. What this thread's channels are shifted and scaled by.
    float mean[8], scale[8], bias_of[8];
#pragma unroll
    for (u32 k = 0; k < 8; k++) {
        const u32 group = (p.octet * 8 + k) / WIDTH;
        mean[k] = means[group];
        scale[k] = scales[group] * read_weight(p.channel + k);
        bias_of[k] = read_bias(p.channel + k);
    }

    // 3. Result.
    for (u32 at = p.position; at < p.end; at += LINES) {
        Octet octet = SOURCE(p, at);
        const u32 m = at / params.positions * params.stride + params.column + p.channel;
#pragma unroll
        for (u32 k = 0; k < 8; k++) {
            float v = (widen(octet.v[k]) - mean[k]) * scale[k] + bias_of[k];
            v = v * (1.0f + read_modulation(m + k)) + read_modulation(m + channels + k);
            octet.v[k] = narrow<elem>(activate(v));
        }
        *(Octet*)(y + (at * channels + p.channel)) = octet;
    }
}
