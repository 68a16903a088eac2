// what:   group norm of one or two sources, modulation, activation: one block per clip and group
// in/out: x [items, positions, c1], x2 [items, positions, c2] -> y [items, positions, c1+c2]; weight, bias [c1+c2];
//         modulation [items, stride]; `frames` items make a clip
// launch: a line of clips * groups blocks of BLOCK (a power of two); 4 * BLOCK static shared bytes
// work:   8 flop and the activation's per element; x read three times, y written once
// needs:  nothing
// error:  f32 sums of count / BLOCK terms about 0 and about the mean, then a tree
// idea:   three sweeps as the formula stands: mean, variance about the mean, result

struct Params {
    // Of the whole launch, and of one group.
    u32 clips, groups, width;
    // Of one item, and of one clip.
    u32 positions, clip_positions;
    u32 c1, c2;
    // First column and row length of the modulation.
    u32 column, stride;
};

// Sum of one value per thread, the same for all.
DEV float total(float value, float* partial) {
    // Protects the result of an earlier sum until everyone has read it.
    __syncthreads();
    partial[threadIdx.x] = value;
    for (u32 half = BLOCK / 2; half > 0; half /= 2) {
        // Protects the upper half until everyone has written it.
        __syncthreads();
        if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    }
    // Protects the sum until thread 0 has written it.
    __syncthreads();
    return partial[0];
}

KERNEL __launch_bounds__(BLOCK) group_norm(OPERANDS, const Params params) {
    __shared__ float partial[BLOCK];
    u32 id = linear_block();
    if (id >= params.clips * params.groups) return;
    u32 first_position = id / params.groups * params.clip_positions;
    u32 first_channel = id % params.groups * params.width;
    u32 count = params.clip_positions * params.width;
    u32 channels = params.c1 + params.c2;
    auto source = [&](u32 i) -> float {
        u32 position = first_position + i / params.width, channel = first_channel + i % params.width;
        if (channel < params.c1) return read_x(position * params.c1 + channel);
        return read_x2(position * params.c2 + channel - params.c1);
    };

    // 1. Mean.
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < count; i += BLOCK) sum += source(i);
    float mean = total(sum, partial) / count;

    // 2. Variance about the mean.
    float squares = 0.0f;
    for (u32 i = threadIdx.x; i < count; i += BLOCK) {
        float d = source(i) - mean;
        squares += d * d;
    }
    float scale = rsqrtf(total(squares, partial) / count + EPS);

    // 3. Result.
    for (u32 i = threadIdx.x; i < count; i += BLOCK) {
        u32 position = first_position + i / params.width, channel = first_channel + i % params.width;
        float v = (source(i) - mean) * scale * read_weight(channel) + read_bias(channel);
        u32 m = position / params.positions * params.stride + params.column + channel;
        v = v * (1.0f + read_modulation(m)) + read_modulation(m + channels);
        write_y(position * channels + channel, activate(v));
    }
}
