// what:   layer norm, one workgroup per row
// in/out: x [rows, columns] -> y [rows, columns]; weight [columns]; bias [frames, columns]
// launch: a line of `rows` workgroups of BLOCK (a power of two); 4 * BLOCK shared bytes
// work:   8 flop per element; x read three times (twice from cache), y written once
// needs:  nothing
// error:  f32 sums of columns / BLOCK terms, then a tree: a few roundings
// idea:   invocations stride over the row, so that loads are contiguous, and sum in a tree through workgroup memory

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
    let row = linear_group(group, groups);
    if (row >= params.rows) { return; }
    let columns = params.columns;
    let x_row = params.first_x + row * columns;
    let y_row = params.first_y + row * columns;
    let bias_row = (params.first_row + row) / params.positions % params.frames * columns;

    // 1. Mean.
    var sum = 0.0;
    for (var c = local; c < columns; c += BLOCK) {
        sum += read_x(x_row + c);
    }
    let mean = total(sum, local) / f32(columns);

    // 2. Variance about the mean.
    var squares = 0.0;
    for (var c = local; c < columns; c += BLOCK) {
        let d = read_x(x_row + c) - mean;
        squares += d * d;
    }
    let scale = 1.0 / sqrt(total(squares, local) / f32(columns) + EPS);

    // 3. Result.
    for (var c = local; c < columns; c += BLOCK) {
        write_y(y_row + c, (read_x(x_row + c) - mean) * scale * read_weight(c) + read_bias(bias_row + c));
    }
}
