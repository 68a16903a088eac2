// what:   y = activation(conv(resize(concat(x, x2)), w) + bias + shift) + residual, in tiles
// in/out: x [B,H,W,C1], x2 [B,H,W,C2], w [Cout,KH,KW,C1+C2], bias [Cout], shift [B,T], residual [B,Ho,Wo,Cout] -> y like it
// launch: a line of ceil(pixels / 8 ROWS) * ceil(Cout / 64) workgroups of 128; 64 (8 ROWS + 68) bytes of workgroup memory:
//         8.4 KiB at ROWS = 8
// work:   2 KH KW (C1 + C2) flop per element of y; a tile of 64 x 64 reads 128 elements for 8192 flop: 32 flop per byte of
//         f16, less from memory, as the taps of neighbouring pixels overlap
// needs:  loads of four elements where C1 % 4 == 0 and C2 % 4 == 0
// error:  f32 sums in the order of the filter, four at a time; one rounding to the output's type
// idea:   the product of the matrix of taps [pixels, KH KW C], which is never stored, with the filters [Cout, KH KW C]: an
//         invocation finds its vector of a tap where it lies, in either source, padded and resized

// Rows of the tile that one invocation loads.
const LOADS = (TILE_M + 31u) / 32u;

// Channels c..c+4 of a tap.
fn tap4(p: Pixel, tap: u32, c: u32) -> vec4<f32> {
    let place = source(p, tap / KERNEL_WIDTH, tap % KERNEL_WIDTH);
    if (place == NOWHERE) { return vec4<f32>(); }
    if (c < params.c1) { return read4_x((params.at_x + place * params.c1 + c) / 4u); }
    return read4_x2((params.at_x2 + place * params.c2 + c - params.c1) / 4u);
}

// Element k of the row of taps of a pixel, where vectors may cross taps and sources.
fn tap1(p: Pixel, k: u32) -> f32 {
    let channels = params.c1 + params.c2;
    let tap = k / channels;
    let c = k % channels;
    let place = source(p, tap / KERNEL_WIDTH, tap % KERNEL_WIDTH);
    if (place == NOWHERE) { return 0.0; }
    if (c < params.c1) { return read_x(params.at_x + place * params.c1 + c); }
    return read_x2(params.at_x2 + place * params.c2 + c - params.c1);
}

@compute @workgroup_size(128)
fn conv2d(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let pixels = params.items * params.rows * params.width;
    let across = (params.channels + TILE_N - 1u) / TILE_N;
    let g = linear_group(group, groups);
    if (g >= across * ((pixels + TILE_M - 1u) / TILE_M)) { return; }
    let n_first = g % across * TILE_N;
    let first = g / across * TILE_M;

    // Four invocations load the four vectors of a row; rows and columns past the end load the last one again.
    let q = local % TILE_Q;
    let load = local / TILE_Q;
    var mine: array<Pixel, LOADS>;
    for (var i = 0u; i < LOADS; i++) {
        mine[i] = pixel(min(first + load + 32u * i, pixels - 1u));
    }
    let channels = params.c1 + params.c2;
    let taps = KERNEL_HEIGHT * KERNEL_WIDTH;
    let k_end = taps * channels;
    // Tap and channel of this invocation's vector, carried along from step to step.
    var tap = 0u;
    var c = 4u * q;
    var sums: array<vec4<f32>, ROWS>;
    for (var k_first = 0u; k_first < k_end; k_first += 4u * TILE_Q) {
        // 1. A step of both operands; zeros past the end of the sum.
        let k = k_first + 4u * q;
        while (!RAGGED && c >= channels && tap < taps) {
            c -= channels;
            tap++;
        }
        for (var i = 0u; i < LOADS; i++) {
            let row = load + 32u * i;
            if (row >= TILE_M) { break; }
            var v = vec4<f32>();
            if (RAGGED) {
                for (var e = 0u; e < 4u; e++) {
                    if (k + e < k_end) { v[e] = tap1(mine[i], k + e); }
                }
            } else if (tap < taps) {
                v = tap4(mine[i], tap, c);
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
        c += 4u * TILE_Q;
        // The step is there.
        workgroupBarrier();

        // 2. Its products.
        multiply_tile(local % 16u, local / 16u, &sums);
        // All invocations are done with the step before the next one overwrites it.
        workgroupBarrier();
    }

    // 3. Bias, shift, activation, residual.
    for (var r = 0u; r < ROWS; r++) {
        let i = first + local / 16u + 8u * r;
        let p = pixel(i);
        for (var column = 0u; column < 4u; column++) {
            let n = n_first + local % 16u + 16u * column;
            if (i < pixels && n < params.channels) { finish(p, n, sums[r][column]); }
        }
    }
}
