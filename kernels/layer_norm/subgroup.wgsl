// what:   layer norm, one subgroup per row
// in/out: x [rows, columns] -> y [rows, columns]; weight [columns]; bias [frames, columns]
// launch: a line of ceil(rows / ROWS) workgroups of BLOCK; 8 shared bytes
// work:   8 flop per element; x read three times (twice from cache), y written once
// needs:  subgroups, of any size
// error:  f32 sums of columns / subgroup size terms, then a subgroup sum: a few roundings
// idea:   no barrier within a row. How invocations fall into subgroups is the driver's choice, so each subgroup draws a
//         number once, and takes the workgroup's rows number, number + subgroups, ..

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

var<workgroup> drawn: atomic<u32>;
var<workgroup> subgroups: u32;

@compute @workgroup_size(BLOCK)
fn layer_norm(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_size) lanes: u32,
) {
    // 1. Every subgroup draws a number.
    if (local == 0u) {
        atomicStore(&drawn, 0u);
    }
    // Protects the counter until it is zero.
    workgroupBarrier();
    var number = 0u;
    if (lane == 0u) {
        number = atomicAdd(&drawn, 1u);
    }
    number = subgroupBroadcastFirst(number);
    // Protects the counter until every subgroup has drawn.
    workgroupBarrier();
    if (local == 0u) {
        subgroups = atomicLoad(&drawn);
    }
    // Also a barrier: protects the count until invocation 0 has written it.
    let count = workgroupUniformLoad(&subgroups);

    let columns = params.columns;
    for (var k = 0u; k < ROWS; k += count) {
        let row = linear_group(group, groups) * ROWS + k + number;
        // A subgroup without a row goes along, so that all take part in the sums of theirs.
        let valid = k + number < ROWS && row < params.rows;
        let end = select(0u, columns, valid);
        let x_row = params.first_x + row * columns;
        let y_row = params.first_y + row * columns;
        let bias_row = (params.first_row + row) / params.positions % params.frames * columns;

        // 2. Mean.
        var sum = 0.0;
        for (var c = lane; c < end; c += lanes) {
            sum += read_x(x_row + c);
        }
        let mean = subgroupAdd(sum) / f32(columns);

        // 3. Variance about the mean.
        var squares = 0.0;
        for (var c = lane; c < end; c += lanes) {
            let d = read_x(x_row + c) - mean;
            squares += d * d;
        }
        let scale = 1.0 / sqrt(subgroupAdd(squares) / f32(columns) + EPS);

        // 4. Result.
        for (var c = lane; c < end; c += lanes) {
            write_y(y_row + c, (read_x(x_row + c) - mean) * scale * read_weight(c) + read_bias(bias_row + c));
        }
    }
}
