// what:   y = activation(a w^T + bias) + residual, or value * gelu(gate) + residual, for any extents
// in/out: a [items,M,K], w [N|2N,K] or [items,N|2N,K], bias [N|2N], residual [items,M,N] -> y [items,M,N]
// launch: a line of ceil(count / BLOCK) blocks of BLOCK; no shared memory
// work:   2 K flop per element of y (4 K with a gate); rows of a and w are read again by every element that needs them
// needs:  nothing
// error:  f32 sums in the order of k, one rounding to the output's type
// idea:   one thread per element of y, two dot products where there is a gate: the formula, and a check for the others

struct Params {
    // Items and rows of this launch: the first one, and how many.
    u32 item, items, row, rows;
    // Rows of an item, columns of y, length of the sums.
    u32 m, n, k;
    // What is added to an index of a whole operand to give its place in the operand bound, modulo 2^32.
    u32 at_a, at_w, at_residual, at_y;
};

KERNEL __launch_bounds__(BLOCK) matmul(OPERANDS, const Params params) {
    u32 i = linear_block() * BLOCK + threadIdx.x;
    if (i >= params.items * params.rows * params.n) return;
    u32 n = i % params.n;
    u32 item = params.item + i / params.n / params.rows;
    u32 row = item * params.m + params.row + i / params.n % params.rows;
    u32 filters = params.at_w + (BATCHED ? item * params.n * HALVES * params.k : 0);
    auto product = [&](u32 column) -> float {
        u32 from_a = params.at_a + row * params.k, from_w = filters + column * params.k;
        float sum = 0.0f;
        for (u32 k = 0; k < params.k; k++) sum += read_a(from_a + k) * read_w(from_w + k);
        return sum + read_bias(column);
    };

    // 1. The product and bias, and the gate's where there is one.
    float v = product(n);

    // 2. Activation, residual.
    if (HALVES == 2) {
        v *= gelu(product(params.n + n));
    } else {
        v = activate(v);
    }
    u32 o = row * params.n + n;
    write_y(params.at_y + o, v + read_residual(params.at_residual + o));
}
