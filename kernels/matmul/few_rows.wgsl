// what:   the matrix product for at most eight rows: time embeddings, their projections, pooled vectors
// in/out: a [M,K], w [N|2N,K], bias [N|2N], residual [M,N] -> y [M,N], M = ROWS <= 8
// launch: a line of ceil(N / COLUMNS) workgroups of COLUMNS * LANES = 256; 1 KiB of workgroup memory per row
// work:   2 K flop per element and sum; w read once, a once per workgroup (from cache): bound by the bytes of w
// needs:  nothing; loads of four elements where K % 4 == 0
// error:  f32; a sum is 32 interleaved partial sums added pairwise
// idea:   32 invocations share a column: together they read one row of w in contiguous pieces, every vector of it once
//         for all rows of a, and halve their number to add up

const LANES = 32u;
const COLUMNS = 8u;

// Sums of the rows [ROWS][COLUMNS][LANES].
var<workgroup> partial: array<f32, ROWS * COLUMNS * LANES>;

// Leaves the products of all rows of a with row `row` of w in lane 0 of this column's partial sums.
fn products(row: u32, lane: u32, local: u32) {
    // 1. Every lane takes each 32nd vector.
    let w_start = w_row(0u, row);
    var sums: array<f32, ROWS>;
    for (var q = lane; 4u * q < params.k; q += LANES) {
        let w = w4(w_start, q);
        for (var r = 0u; r < ROWS; r++) {
            sums[r] += dot(a4(a_row(params.row + r), q), w);
        }
    }
    for (var r = 0u; r < ROWS; r++) {
        partial[r * COLUMNS * LANES + local] = sums[r];
    }

    // 2. Pairs are added until one lane holds the sum.
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        // The sums that the other half of the lanes left are there.
        workgroupBarrier();
        if (lane < half) {
            for (var r = 0u; r < ROWS; r++) {
                let i = r * COLUMNS * LANES + local;
                partial[i] += partial[i + half];
            }
        }
    }
    // Lane 0 is done.
    workgroupBarrier();
}

@compute @workgroup_size(256)
fn matmul(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let first = linear_group(group, groups) * COLUMNS;
    // Columns past the end compute the last one again, so that all invocations meet at the barriers.
    let mine = min(first + local / LANES, params.n - 1u);
    products(mine, local % LANES, local);
    // 3. One invocation per result keeps the value while the gate's products are made.
    let place = min(local, ROWS * COLUMNS - 1u) * LANES;
    let value = partial[place];
    var gate = 0.0;
    if (HALVES == 2u) {
        // The values have been taken before the gates overwrite them.
        workgroupBarrier();
        products(params.n + mine, local % LANES, local);
        gate = partial[place];
    }

    // 4. Bias, activation, residual.
    let n = first + local % COLUMNS;
    let r = local / COLUMNS;
    if (r < ROWS && n < params.n) { finish(params.row + r, n, value, gate); }
}
