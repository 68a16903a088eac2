// what:   sines and cosines of numbers times frequencies
// in/out: t [count] in f32 -> y [count, dim]; frequencies [dim / 2] are parameters
// launch: a line of ceil(count * dim / BLOCK) workgroups of BLOCK; no shared memory
// work:   about 40 flop per element; t from cache, y written once
// needs:  angles up to 6000 rad; frequencies within 16 KiB
// error:  3e-7 of the sine or cosine of the f32 angle t * f
// idea:   devices' own sin and cos are good to 2^-11 only, and to nothing beyond pi; so frequencies come from the host, and
//         the angle is reduced to a quarter turn (Cody, Waite, "Software manual for the elementary functions", 1980)

struct Params {
    count: u32,
    dim: u32,
    half: u32,
    // Always 0, which the compiler cannot know.
    zero: u32,
    frequencies: array<vec4<f32>, QUADS>,
}

// cos(angle), or sin(angle).
fn wave(angle: f32, cosine: bool) -> f32 {
    // 1. Nearest multiple of pi/2, in three parts of 8, 11 and 24 bits: the first two products and differences are exact.
    let turns = round(angle * 0.63661977);
    let r = ((angle - turns * 1.5703125) - turns * 0.0004837512969970703) - turns * 7.549790126404332e-8;
    // 2. Taylor series on [-pi/4, pi/4]: the terms left out are below 3e-9.
    let z = r * r;
    let s = r + r * z * (-1.0 / 6.0 + z * (1.0 / 120.0 + z * (-1.0 / 5040.0 + z * (1.0 / 362880.0))));
    let c = 1.0 + z * (-0.5 + z * (1.0 / 24.0 + z * (-1.0 / 720.0 + z * (1.0 / 40320.0 - z * (1.0 / 3628800.0)))));
    // 3. The quarter that the angle lies in: cos(a) = sin(a + pi/2).
    let quarter = bitcast<u32>(i32(turns)) + select(0u, 1u, cosine);
    let value = select(s, c, (quarter & 1u) == 1u);
    return select(value, -value, (quarter & 2u) == 2u);
}

@compute @workgroup_size(BLOCK)
fn timestep_embedding(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = linear_group(group, groups) * BLOCK + local;
    if (i >= params.count * params.dim) { return; }
    let column = i % params.dim;
    if (column >= 2u * params.half) {
        write_y(i, 0.0);
        return;
    }
    let k = column % params.half;
    // The product is rounded to f32 as in the field's implementations. Through the zero, it is not fused into what follows.
    let product = read_t(i / params.dim) * params.frequencies[k / 4u][k % 4u];
    let angle = bitcast<f32>(bitcast<u32>(product) ^ params.zero);
    write_y(i, wave(angle, (column < params.half) == COSINE_FIRST));
}
