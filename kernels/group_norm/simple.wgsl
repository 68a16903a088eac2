// what:   group norm of one or two sources, modulation, activation: one workgroup per clip and group
// in/out: x [items, positions, c1], x2 [items, positions, c2] -> y [items, positions, c1+c2]; weight, bias [c1+c2];
//         modulation [items, stride]; `frames` items make a clip
// launch: a line of clips * groups workgroups of BLOCK (a power of two); 4 * BLOCK shared bytes
// work:   8 flop and the activation's per element; x read three times, y written once
// needs:  nothing
// error:  f32 sums of count / BLOCK terms about 0 and about the mean, then a tree
// idea:   three sweeps as the formula stands: mean, variance about the mean, result

@compute @workgroup_size(BLOCK)
fn group_norm(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(num_workgroups) group_count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let id = linear_group(group_id, group_count);
    if (id >= params.clips * params.groups) { return; }
    let first_position = id / params.groups * params.clip_positions;
    let first_channel = id % params.groups * params.width;
    let count = params.clip_positions * params.width;
    let channels = params.c1 + params.c2;

    // 1. Mean.
    var sum = 0.0;
    for (var i = local; i < count; i += BLOCK) {
        sum += source(first_position + i / params.width, first_channel + i % params.width);
    }
    let mean = total(sum, local) / f32(count);

    // 2. Variance about the mean.
    var squares = 0.0;
    for (var i = local; i < count; i += BLOCK) {
        let d = source(first_position + i / params.width, first_channel + i % params.width) - mean;
        squares += d * d;
    }
    let scale = 1.0 / sqrt(total(squares, local) / f32(count) + EPS);

    // 3. Result.
    for (var i = local; i < count; i += BLOCK) {
        let position = first_position + i / params.width;
        let channel = first_channel + i % params.width;
        let v = (source(position, channel) - mean) * scale * read_weight(channel) + read_bias(channel);
        let m = position / params.positions * params.stride + params.column + channel;
        write_y(position * channels + channel, activate(v * (1.0 + read_modulation(m)) + read_modulation(m + channels)));
    }
}
