// what:   y = activation(conv(resize(concat(x, x2)), w) + bias + shift) + residual, for any extents
// in/out: x [B,H,W,C1], x2 [B,H,W,C2], w [Cout,KH,KW,C1+C2], bias [Cout], shift [B,T], residual [B,Ho,Wo,Cout] -> y like it
// launch: a line of ceil(count / BLOCK) workgroups of BLOCK; no shared memory
// work:   2 KH KW (C1 + C2) flop per element of y; every element reads its taps and its filter again (from cache)
// needs:  nothing
// error:  f32 sums in the order of the filter, one rounding to the output's type
// idea:   one invocation per element of y: the formula, and a check for the others

// Products of one tap with one filter's weights from index `w` on.
fn tap(place: u32, w: u32) -> f32 {
    var sum = 0.0;
    for (var c = 0u; c < params.c1; c++) {
        sum += read_x(params.at_x + place * params.c1 + c) * read_w(w + c);
    }
    for (var c = 0u; c < params.c2; c++) {
        sum += read_x2(params.at_x2 + place * params.c2 + c) * read_w(w + params.c1 + c);
    }
    return sum;
}

@compute @workgroup_size(BLOCK)
fn conv2d(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = linear_group(group, groups) * BLOCK + local;
    if (i >= params.items * params.rows * params.width * params.channels) { return; }
    let n = i % params.channels;
    let p = pixel(i / params.channels);

    // 1. Taps that do not lie in the padding.
    let c = params.c1 + params.c2;
    var sum = 0.0;
    for (var ky = 0u; ky < KERNEL_HEIGHT; ky++) {
        for (var kx = 0u; kx < KERNEL_WIDTH; kx++) {
            let place = source(p, ky, kx);
            if (place != NOWHERE) { sum += tap(place, ((n * KERNEL_HEIGHT + ky) * KERNEL_WIDTH + kx) * c); }
        }
    }

    // 2. Bias, shift, activation, residual.
    finish(p, n, sum);
}
