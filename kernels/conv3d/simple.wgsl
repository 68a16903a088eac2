// what:   y = activation(conv(x, w) + bias) over frames, rows and columns, for any extents
// in/out: x [B,F,H,W,C], w [Cout,KF,KH,KW,C], bias [Cout] -> y [B,Fo,Ho,Wo,Cout]
// launch: a line of ceil(count / BLOCK) workgroups of BLOCK; no shared memory
// work:   2 KF KH KW C flop per element of y; every element reads its taps and its filter again (from cache)
// needs:  nothing
// error:  f32 sums in the order of the filter, one rounding to the output's type
// idea:   one invocation per element of y: the formula, and a check for the others

@compute @workgroup_size(BLOCK)
fn conv3d(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = linear_group(group, groups) * BLOCK + local;
    if (i >= params.cells * params.channels) { return; }
    let n = i % params.channels;
    let p = cell(i / params.channels);

    // 1. Taps that do not lie in the padding.
    let taps = KERNEL_FRAMES * KERNEL_HEIGHT * KERNEL_WIDTH;
    var sum = 0.0;
    for (var tap = 0u; tap < taps; tap++) {
        let place = source(p, tap);
        if (place == NOWHERE) { continue; }
        let filter_row = (n * taps + tap) * params.c;
        for (var k = 0u; k < params.c; k++) {
            sum += read_x(place + k) * read_w(filter_row + k);
        }
    }

    // 2. Bias, activation.
    write_y(params.first_y + i, activate(sum + read_bias(n)));
}
