// what:   y = activation(a w^T + bias) + residual, or value * gelu(gate) + residual, in tiles
// in/out: a [items,M,K], w [N|2N,K] or [items,N|2N,K], bias [N|2N], residual [items,M,N] -> y [items,M,N]
// launch: a line of items * ceil(M / 8 ROWS) * ceil(HALVES N / 64) workgroups of 128; 64 (8 ROWS + 68) bytes of workgroup
//         memory: 8.4 KiB at ROWS = 8
// work:   2 K flop per sum; a tile of 64 x 64 reads 128 K elements of a and w for 8192 K flop: 32 flop per byte of f16
// needs:  loads of four elements where K % 4 == 0
// error:  f32 sums in the order of k, four at a time; one rounding to the output's type
// idea:   both operands have the sum's axis last, so a step of 16 is loaded in vectors as it lies and multiplied by dot
//         products; a gated tile holds 32 value columns and their 32 gates, so that the gate never leaves its invocation

// Row of w that column j of the tile multiplies. A gated tile ends with the gates of its values.
fn w_of_column(first: u32, j: u32) -> u32 {
    let columns = TILE_N / HALVES;
    return min(first + j % columns, params.n - 1u) + j / columns * params.n;
}

@compute @workgroup_size(128)
fn matmul(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let across = (params.n * HALVES + TILE_N - 1u) / TILE_N;
    let down = (params.rows + TILE_M - 1u) / TILE_M;
    let g = linear_group(group, groups);
    if (g >= across * down * params.items) { return; }
    let n_first = g % across * (TILE_N / HALVES);
    let row_first = g / across % down * TILE_M;
    let item = params.item + g / across / down;
    let item_row = item * params.m + params.row;

    // Four invocations load the four vectors of a row; rows and columns past the end load the last one again.
    let q = local % TILE_Q;
    let load = local / TILE_Q;
    let vectors = (params.k + 3u) / 4u;
    var sums: array<vec4<f32>, ROWS>;
    for (var step = 0u; step < vectors; step += TILE_Q) {
        // 1. A step of both operands; zeros past the end of the sum.
        for (var i = load; i < TILE_M; i += 32u) {
            var v = vec4<f32>();
            let row = item_row + min(row_first + i, params.rows - 1u);
            if (step + q < vectors) { v = a4(a_row(row), step + q); }
            tile_a[q * TILE_STRIDE_A + i] = v;
        }
        for (var j = load; j < TILE_N; j += 32u) {
            var v = vec4<f32>();
            if (step + q < vectors) { v = w4(w_row(item, w_of_column(n_first, j)), step + q); }
            tile_w[q * TILE_STRIDE_W + j] = v;
        }
        // The step is there.
        workgroupBarrier();

        // 2. Its products.
        multiply_tile(local % 16u, local / 16u, &sums);
        // All invocations are done with the step before the next one overwrites it.
        workgroupBarrier();
    }

    // 3. Bias, activation or gate, residual.
    for (var r = 0u; r < ROWS; r++) {
        let row = row_first + local / 16u + 8u * r;
        for (var c = 0u; c < 4u / HALVES; c++) {
            let n = n_first + local % 16u + 16u * c;
            if (row < params.rows && n < params.n) {
                finish(item_row + row, n, sums[r][c], sums[r][c + 2u * (HALVES - 1u)]);
            }
        }
    }
}
