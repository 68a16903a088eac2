// what:   y = activation(conv(x, w) + bias) over frames, rows and columns, in tiles
// in/out: x [B,F,H,W,C], w [Cout,KF,KH,KW,C], bias [Cout] -> y [B,Fo,Ho,Wo,Cout]
// launch: a line of ceil(cells / 8 ROWS) * ceil(Cout / 64) workgroups of 128; 64 (8 ROWS + 68) bytes of workgroup memory
// work:   2 KF KH KW C flop per element of y; a tile of 64 x 64 reads 128 elements for 8192 flop
// needs:  loads of four elements where C % 4 == 0
// error:  f32 sums in the order of the filter, four at a time; one rounding to the output's type
// idea:   the product of the matrix of taps [cells, KF KH KW C], which is never stored, with the filters: an invocation finds
//         its vector of a tap where it lies in the clip, or zeros in the padding

// Rows of the tile that one invocation loads.
const LOADS = (TILE_M + 31u) / 32u;

// Element k of the row of taps of a cell, where vectors may cross taps.
fn tap1(p: Cell, k: u32) -> f32 {
    let place = source(p, k / params.c);
    if (place == NOWHERE) { return 0.0; }
    return read_x(place + k % params.c);
}

// Elements k..k+4, within one tap.
fn tap4(p: Cell, k: u32) -> vec4<f32> {
    let place = source(p, k / params.c);
    if (place == NOWHERE) { return vec4<f32>(); }
    return read4_x((place + k % params.c) / 4u);
}

@compute @workgroup_size(128)
fn conv3d(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let across = (params.channels + TILE_N - 1u) / TILE_N;
    let g = linear_group(group, groups);
    if (g >= across * ((params.cells + TILE_M - 1u) / TILE_M)) { return; }
    let n_first = g % across * TILE_N;
    let first = g / across * TILE_M;

    // Four invocations load the four vectors of a row; rows and columns past the end load the last one again.
    let q = local % TILE_Q;
    let load = local / TILE_Q;
    var mine: array<Cell, LOADS>;
    for (var i = 0u; i < LOADS; i++) {
        mine[i] = cell(min(first + load + 32u * i, params.cells - 1u));
    }
    let k_end = KERNEL_FRAMES * KERNEL_HEIGHT * KERNEL_WIDTH * params.c;
    var sums: array<vec4<f32>, ROWS>;
    for (var k_first = 0u; k_first < k_end; k_first += 4u * TILE_Q) {
        // 1. A step of both operands; zeros past the end of the sum.
        let k = k_first + 4u * q;
        for (var i = 0u; i < LOADS; i++) {
            let row = load + 32u * i;
            if (row >= TILE_M) { break; }
            var v = vec4<f32>();
            if (RAGGED) {
                for (var e = 0u; e < 4u; e++) {
                    if (k + e < k_end) { v[e] = tap1(mine[i], k + e); }
                }
            } else if (k < k_end) {
                v = tap4(mine[i], k);
            }
            tile_a[q * TILE_STRIDE_A + row] = v;
        }
        for (var j = load; j < TILE_N; j += 32u) {
            var v = vec4<f32>();
            let w = min(n_first + j, params.channels - 1u) * k_end + k;
            if (RAGGED) {
                for (var e = 0u; e < 4u; e++) {
                    if (k + e < k_end) { v[e] = read_w(w + e); }
                }
            } else if (k < k_end) {
                v = read4_w(w / 4u);
            }
            tile_w[q * TILE_STRIDE_W + j] = v;
        }
        // The step is there.
        workgroupBarrier();

        // 2. Its products.
        multiply_tile(local % 16u, local / 16u, &sums);
        // All invocations are done with the step before the next one overwrites it.
        workgroupBarrier();
    }

    // 3. Bias, activation.
    for (var r = 0u; r < ROWS; r++) {
        let i = first + local / 16u + 8u * r;
        for (var column = 0u; column < 4u; column++) {
            let n = n_first + local % 16u + 16u * column;
            if (i < params.cells && n < params.channels) {
                write_y(params.first_y + i * params.channels + n, activate(sums[r][column] + read_bias(n)));
            }
        }
    }
}
