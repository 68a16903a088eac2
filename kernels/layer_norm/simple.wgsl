// what:   layer norm, one invocation per row
// in/out: x [rows, columns] -> y [rows, columns]; weight [columns]; bias [frames, columns]
// launch: a line of ceil(rows / BLOCK) workgroups of BLOCK; no shared memory
// work:   8 flop per element; x read three times (from cache where a row fits), y written once
// needs:  nothing
// error:  sequential f32 sums over a row: about columns * 2^-24 relative at worst
// idea:   the formula as it stands: mean, then variance about the mean, then the result

struct Params {
    rows: u32,
    columns: u32,
    // First elements in the bindings.
    first_x: u32,
    first_y: u32,
    // The first row's number, rows in a frame, and rows of the bias: a frame of a clip has its own.
    first_row: u32,
    positions: u32,
    frames: u32,
}

@compute @workgroup_size(BLOCK)
fn layer_norm(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = linear_group(group, groups) * BLOCK + local;
    if (row >= params.rows) { return; }
    let columns = params.columns;
    let x_row = params.first_x + row * columns;
    let y_row = params.first_y + row * columns;
    let bias_row = (params.first_row + row) / params.positions % params.frames * columns;

    // 1. Mean.
    var sum = 0.0;
    for (var c = 0u; c < columns; c++) {
        sum += read_x(x_row + c);
    }
    let mean = sum / f32(columns);

    // 2. Variance about the mean.
    var squares = 0.0;
    for (var c = 0u; c < columns; c++) {
        let d = read_x(x_row + c) - mean;
        squares += d * d;
    }
    let scale = 1.0 / sqrt(squares / f32(columns) + EPS);

    // 3. Result.
    for (var c = 0u; c < columns; c++) {
        write_y(y_row + c, (read_x(x_row + c) - mean) * scale * read_weight(c) + read_bias(bias_row + c));
    }
}
