// what:   y = activation(a w^T + bias) + residual, or value * gelu(gate) + residual, for any extents
// in/out: a [items,M,K], w [N|2N,K] or [items,N|2N,K], bias [N|2N], residual [items,M,N] -> y [items,M,N]
// launch: a line of ceil(count / BLOCK) workgroups of BLOCK; no shared memory
// work:   2 K flop per element of y (4 K with a gate); rows of a and w are read again by every element that needs them
// needs:  nothing
// error:  f32 sums in the order of k, one rounding to the output's type
// idea:   one invocation per element of y, two dot products where there is a gate: the formula, and a check for the others

fn product(a: u32, w: u32) -> f32 {
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
    let value = product(a_row(row), w_row(item, n));
    var gate = 0.0;
    if (HALVES == 2u) { gate = product(a_row(row), w_row(item, params.n + n)); }

    // 2. Bias, activation, residual.
    finish(row, n, value, gate);
}
