// what:   the matrix product for at most eight rows: time embeddings, their projections, pooled vectors
// in/out: a [M,K], w [N|2N,K], bias [N|2N], residual [M,N] -> y [M,N], M = ROWS <= 8
// launch: a line of ceil(N / COLUMNS) workgroups of COLUMNS * LANES = 256; 1 KiB of workgroup memory per row
// work:   2 K flop per element and sum; w read once, a once per workgroup (from cache): bound by the bytes of w
// needs:  nothing; loads of four elements where K % 4 == 0
// error:  f32; a sum is 32 interleaved partial sums added pairwise
// idea:   32 invocations share a column: together they read one row of w in contiguous pieces, every vector of it once
//         for all rows of a, and halve their number to add up

struct Params {
    item: u32,
    items: u32,
    row: u32,
    rows: u32,
    m: u32,
    n: u32,
    k: u32,
    at_a: u32,
    at_w: u32,
    at_residual: u32,
    at_y: u32,
}

const LANES = 32u;
const COLUMNS = 8u;

// Sums of the rows [ROWS][COLUMNS][LANES].
var<workgroup> partial: array<f32, ROWS * COLUMNS * LANES>;

// Elements 4q..4q+4 of a row that begins at `start`.
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

// Leaves the products of all rows of a with row `w_row` of w in lane 0 of this column's partial sums.
fn products(w_row: u32, lane: u32, local: u32) {
    // 1. Every lane takes each 32nd vector.
    let w_start = params.at_w + w_row * params.k;
    var sums: array<f32, ROWS>;
    for (var q = lane; 4u * q < params.k; q += LANES) {
        let w = w4(w_start, q);
        for (var r = 0u; r < ROWS; r++) {
            sums[r] += dot(a4(params.at_a + (params.row + r) * params.k, q), w);
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
    // 3. One invocation per result keeps the value while the gate's products are made.
    let n = first + local % COLUMNS;
    let r = local / COLUMNS;
    let here = min(local, ROWS * COLUMNS - 1u);
    let place = (here / COLUMNS * COLUMNS + here % COLUMNS) * LANES;

    products(mine, local % LANES, local);
    var y = partial[place] + read_bias(min(n, params.n - 1u));
    if (HALVES == 2u) {
        // The values have been taken before the gates overwrite them.
        workgroupBarrier();
        products(params.n + mine, local % LANES, local);
        y *= gelu(partial[place] + read_bias(params.n + min(n, params.n - 1u)));
    } else {
        y = activate(y);
    }

    // 4. The residual.
    if (r < ROWS && n < params.n) {
        let o = (params.row + r) * params.n + n;
        write_y(params.at_y + o, y + read_residual(params.at_residual + o));
    }
}
