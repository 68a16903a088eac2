// what:   a permutation of axes, or channels put together, cut out or reversed
// in/out: x (and x2) of any shape -> y [.., e1, e2, e3], all in one element type
// launch: a line of ceil(count / BLOCK) workgroups of BLOCK; no shared memory
// work:   no flop; each element that is wanted read once, y written once
// needs:  nothing
// error:  none
// idea:   one invocation per element of y finds its source by strides; columns from `split` on come from x2 instead

struct Params {
    count: u32,
    // Inner extents of y.
    e1: u32,
    e2: u32,
    e3: u32,
    // Index in x of the first element, and steps along the axes of y; columns backwards have a negative one.
    base: i32,
    s0: i32,
    s1: i32,
    s2: i32,
    s3: i32,
    // First column of x2, and columns of x2.
    split: u32,
    width2: u32,
    // First elements in the bindings.
    first_x2: u32,
    first_y: u32,
}

@compute @workgroup_size(BLOCK)
fn layout_copy(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = linear_group(group, groups) * BLOCK + local;
    if (i >= params.count) { return; }
    let row = i / params.e3;
    let column = i % params.e3;
    if (column >= params.split) {
        write_y(params.first_y + i, read_x2(params.first_x2 + row * params.width2 + column - params.split));
        return;
    }
    let i2 = i32(row % params.e2);
    let i1 = i32(row / params.e2 % params.e1);
    let i0 = i32(row / params.e2 / params.e1);
    let source = params.base + i0 * params.s0 + i1 * params.s1 + i2 * params.s2 + i32(column) * params.s3;
    write_y(params.first_y + i, read_x(u32(source)));
}
