// what:   y = sum over c of w_c (a_c / (|a| + eps) - b_c / (|b| + eps))^2, pixel by pixel
// in/out: x [2 pixels, channels], the pixels of all a before those of all b; w [channels] -> y [pixels] in f32
// launch: a line of ceil(pixels / BLOCK) workgroups of BLOCK; no shared memory
// work:   10 flop per channel and pixel; x read twice (the second time from cache), y written once
// needs:  x within one binding
// error:  f32 sums channel by channel
// idea:   one invocation per pixel: a walk for the norms, a walk for the distance

struct Params {
    pixels: u32,
    channels: u32,
    eps: f32,
}

@compute @workgroup_size(BLOCK)
fn unit_distance(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = linear_group(group, groups) * BLOCK + local;
    if (i >= params.pixels) { return; }
    let a = i * params.channels;
    let b = (params.pixels + i) * params.channels;
    var power_a = 0.0;
    var power_b = 0.0;
    for (var c = 0u; c < params.channels; c++) {
        let va = read_x(a + c);
        let vb = read_x(b + c);
        power_a += va * va;
        power_b += vb * vb;
    }
    let norm_a = sqrt(power_a) + params.eps;
    let norm_b = sqrt(power_b) + params.eps;
    var sum = 0.0;
    for (var c = 0u; c < params.channels; c++) {
        let d = read_x(a + c) / norm_a - read_x(b + c) / norm_b;
        sum += read_w(c) * d * d;
    }
    write_y(i, sum);
}
