// what:   where the operands of a product lie: what all variants of matmul share

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

// First element of a row of a, and of row `row` of an item's w, in their bindings.
fn a_row(row: u32) -> u32 {
    return params.at_a + row * params.k;
}

fn w_row(item: u32, row: u32) -> u32 {
    return params.at_w + (select(0u, item * params.n * HALVES, BATCHED) + row) * params.k;
}

// Elements 4q..4q+4 of a row that begins at `start`; zeros past its end.
fn a4(start: u32, q: u32) -> vec4<f32> {
    if (!RAGGED) { return read4_a(start / 4u + q); }
    var v = vec4<f32>();
    for (var i = 0u; i < 4u; i++) {
        if (4u * q + i < params.k) { v[i] = read_a(start + 4u * q + i); }
    }
    return v;
}

fn w4(start: u32, q: u32) -> vec4<f32> {
    if (!RAGGED) { return read4_w(start / 4u + q); }
    var v = vec4<f32>();
    for (var i = 0u; i < 4u; i++) {
        if (4u * q + i < params.k) { v[i] = read_w(start + 4u * q + i); }
    }
    return v;
}

// Activates or gates the product of row `row` and column `n`, adds the residual, and stores it.
fn finish(row: u32, n: u32, value: f32, gate: f32) {
    var y = value + read_bias(n);
    if (HALVES == 2u) {
        y *= gelu(gate + read_bias(params.n + n));
    } else {
        y = activate(y);
    }
    let o = row * params.n + n;
    write_y(params.at_y + o, y + read_residual(params.at_residual + o));
}
