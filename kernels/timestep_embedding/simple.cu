// what:   sines and cosines of numbers times frequencies
// in/out: t [count] in f32 -> y [count, dim]; frequencies [dim / 2] are parameters
// launch: a line of ceil(count * dim / BLOCK) blocks of BLOCK; no shared memory
// work:   about 40 flop per element; t from cache, y written once
// needs:  parameters within 4 KiB
// error:  2 ulp of the sine or cosine of the f32 angle t * f
// idea:   frequencies come from the host, to the last bit those of the reference; sinf and cosf reduce any angle

struct Params {
    u32 count, dim, half;
    // Always 0: WGSL hides a rounding behind it.
    u32 zero;
    float frequencies[4 * QUADS];
};

KERNEL __launch_bounds__(BLOCK) timestep_embedding(OPERANDS, const Params params) {
    u32 i = linear_block() * BLOCK + threadIdx.x;
    if (i >= params.count * params.dim) return;
    u32 column = i % params.dim;
    float v = 0.0f;
    if (column < 2 * params.half) {
        // Rounded to f32 as in the field's implementations, and not fused into what follows.
        float angle = __fmul_rn(read_t(i / params.dim), params.frequencies[column % params.half]);
        v = (column < params.half) == COSINE_FIRST ? cosf(angle) : sinf(angle);
    }
    write_y(i, v);
}
