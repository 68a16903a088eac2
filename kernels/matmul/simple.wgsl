// what:   y = activation(a w^T + bias) + residual, or value * gelu(gate) + residual, for any extents
// in/out: a [items,M,K], w [N|2N,K] or [items,N|2N,K], bias [N|2N], residual [items,M,N] -> y [items,M,N]
// launch: a line of ceil(count / BLOCK) workgroups of BLOCK; no shared memory
// work:   2 K flop per element of y (4 K with a gate); rows of a and w are read again by every element that needs them
// needs:  nothing
// error:  f32 sums in the order of k, one rounding to the output's type
// idea:   one invocation per element of y, two dot products where there is a gate: the formula, and a check for the others

struct Params {
    // Items and rows of this launch: the first one, and how many.
    item: u32,
    items: u32,
    row: u32,
    rows: u32,
    // Rows of an item, columns of y, length of the sums.
    m: u32,
    n: u32,
    k: u32,
    // What is added to an index of a whole operand to give its place in the binding, modulo 2^32.
    at_a: u32,
    at_w: u32,
    at_residual: u32,
    at_y: u32,
}

fn product(a_row: u32, w_row: u32) -> f32 {
    let a = params.at_a + a_row * params.k;
    let w = params.at_w + w_row * params.k;
    var sum = 0.0;
    for (var k = 0u; k < params.k; k++) {
        sum += read_a(a + k) * read_w(w + k);
    }
    return sum;
}

@compute @workgroup_size(BLOCK)
fn matmul(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = linear_group(group, groups) * BLOCK + local;
    if (i >= params.items * params.rows * params.n) { return; }
    let n = i % params.n;
    let item = params.item + i / params.n / params.rows;
    let row = item * params.m + params.row + i / params.n % params.rows;

    // 1. The product, and the gate's where there is one.
    let w_row = select(0u, item * params.n * HALVES, BATCHED) + n;
    var y = product(row, w_row) + read_bias(n);
    if (HALVES == 2u) {
        y *= gelu(product(row, w_row + params.n) + read_bias(params.n + n));
    } else {
        y = activate(y);
    }

    // 2. The residual.
    let o = row * params.n + n;
    write_y(params.at_y + o, y + read_residual(params.at_residual + o));
}
