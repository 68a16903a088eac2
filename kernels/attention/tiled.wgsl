// what:   attention of 64 queries and one head to all their keys, 32 at a time
// in/out: qkv [B,L,3C] or q [B,L,C], kv [Bk,M,2C]; kv2 [B2,M2,2C], mask [1|B,1|L,M] -> y [B,L,C], C = heads WIDTH
// launch: a line of ceil(L / 64) * SPLITS * heads * items workgroups of 128; 14.7 KiB of workgroup memory at most
// work:   4 WIDTH flop per query and key (2 WIDTH (SPLITS + 1) where the values are split); 64 queries share a load of the
//         keys and values: per 32 keys, 128 WIDTH elements for 8192 WIDTH flop: 32 flop per byte of f16
// needs:  loads of four elements where WIDTH % 4 == 0
// error:  f32 scores, softmax and sums; one rounding to the output's type
// idea:   scores are a product q k^T and values a product p v; both are made of dot products of vectors of four, along the
//         head's columns and along the keys. Invocation (tx, ty) of 8 x 16 owns the queries ty + 16 r in both, so that the
//         running maxima stay in its registers, one vector component per query; its part of the running sums is its own
//         keys', and the parts meet at the end. A wide head's values are divided over SPLITS workgroups of VALUES columns

const QUERIES = 64u;
const KEYS = 32u;
const QUADS = (WIDTH + 3u) / 4u;
// Vectors of the head's columns in one step of the scores.
const STEP = 4u;
// Columns of the values in one step, and steps.
const CHUNK_COLUMNS = 8u * CHUNK;
const CHUNKS = (VALUES + CHUNK_COLUMNS - 1u) / CHUNK_COLUMNS;
// Distances of vectors in workgroup memory, chosen so that eight neighbours use all banks.
const STRIDE_Q = QUERIES + 2u;
const STRIDE_K = KEYS + 2u;
const STRIDE_V = CHUNK_COLUMNS + 1u;
const STRIDE_P = QUERIES + 1u;
const FIRST_K = STEP * STRIDE_Q;

// A step of queries and keys; then the maxima of 8 x 16 invocations; then a step of values, four keys to a vector.
var<workgroup> stage: array<vec4<f32>, FIRST_K + STEP * STRIDE_K>;
// Weights, four keys to a vector: [KEYS / 4][QUERIES].
var<workgroup> weights: array<vec4<f32>, KEYS / 4u * STRIDE_P>;

// Columns d..d+4 of the head of a query, and of a key or value, that begins at `start`; zeros past its end.
fn query4(start: u32, d: u32) -> vec4<f32> {
    if (!RAGGED) { return read4_q((start + d) / 4u); }
    var v = vec4<f32>();
    for (var e = 0u; e < 4u; e++) {
        if (d + e < WIDTH) { v[e] = read_q(start + d + e); }
    }
    return v;
}

fn key4(start: u32, d: u32, second: bool) -> vec4<f32> {
    if (!RAGGED) {
        let i = (start + d) / 4u;
        if (SEGMENT && second) { return read4_kv2(i); }
        if (PACKED) { return read4_q(i); }
        return read4_kv(i);
    }
    var v = vec4<f32>();
    for (var e = 0u; e < 4u; e++) {
        if (d + e < WIDTH) { v[e] = key_value(start + d + e, second); }
    }
    return v;
}

// Products of the queries with the keys first..first+32: component c of sums[r] is query ty + 16 r with key 4 tx + c.
fn products(item: u32, head: u32, l_first: u32, first: u32, local: u32) -> array<vec4<f32>, 4> {
    let q = local % STEP;
    let load = local / STEP;
    let l_last = params.query + params.queries - 1u;
    let total = params.keys + more(item);
    let j = min(first + load, total - 1u);
    let key = element_of(item, j, params.keys) + head * WIDTH;
    var sums: array<vec4<f32>, 4>;
    for (var step = 0u; step < QUADS; step += STEP) {
        // 1. A step of the queries and keys. Key 4 t + c lies at t + 8 c, where neighbours t have no bank in common.
        if (step + q < QUADS) {
            let d = 4u * (step + q);
            for (var i = load; i < QUERIES; i += 32u) {
                let start = params.at_q + row_of(item, min(l_first + i, l_last)) * params.q_stride + head * WIDTH;
                stage[q * STRIDE_Q + i] = query4(start, d);
            }
            stage[FIRST_K + q * STRIDE_K + load / 4u + 8u * (load % 4u)] = key4(key, d, j >= params.keys);
        }
        // The step is there.
        workgroupBarrier();

        // 2. Its products.
        for (var s = 0u; s < min(STEP, QUADS - step); s++) {
            let k = FIRST_K + s * STRIDE_K + local % 8u;
            let k0 = stage[k];
            let k1 = stage[k + 8u];
            let k2 = stage[k + 16u];
            let k3 = stage[k + 24u];
            for (var r = 0u; r < 4u; r++) {
                let a = stage[s * STRIDE_Q + local / 8u + 16u * r];
                sums[r] += vec4<f32>(dot(a, k0), dot(a, k1), dot(a, k2), dot(a, k3));
            }
        }
        // All invocations are done with the step before it is overwritten.
        workgroupBarrier();
    }
    return sums;
}

// Scores of query l with the keys j..j+4; LOWEST for those that it does not see.
fn scores(item: u32, l: u32, j: u32, total: u32, sums: vec4<f32>) -> vec4<f32> {
    var s = SCALE * sums;
    for (var c = 0u; c < 4u; c++) {
        let own = j + c < params.keys;
        if (MASK && own) { s[c] += mask_at(item, l, j + c); }
        if (j + c >= total || (CAUSAL && own && j + c > l)) { s[c] = LOWEST; }
    }
    return max(s, vec4<f32>(LOWEST));
}

// Brings the values first..first+32 of a step's columns to workgroup memory, four keys to a vector.
fn load_values(item: u32, head: u32, first: u32, column: u32, local: u32) {
    if (local >= KEYS / 4u * 2u * CHUNK) { return; }
    let quad = local / (2u * CHUNK);
    let d = 4u * (local % (2u * CHUNK));
    // Columns past the end are read, at a place within the head, and never stored.
    let place = min(column + d, 4u * (QUADS - 1u));
    let total = params.keys + more(item);
    var rows: array<vec4<f32>, 4>;
    for (var e = 0u; e < 4u; e++) {
        // Past the last key it is read again, with weight zero.
        let j = min(first + 4u * quad + e, total - 1u);
        let start = element_of(item, j, params.keys) + params.columns + head * WIDTH;
        rows[e] = key4(start, place, j >= params.keys);
    }
    for (var e = 0u; e < 4u; e++) {
        stage[quad * STRIDE_V + d + e] = vec4<f32>(rows[0][e], rows[1][e], rows[2][e], rows[3][e]);
    }
}

// Products of the weights with the step of values: component r of the sum c is query ty + 16 r and column tx + 8 c.
fn weighted(local: u32) -> array<vec4<f32>, CHUNK> {
    var sums: array<vec4<f32>, CHUNK>;
    for (var quad = 0u; quad < KEYS / 4u; quad++) {
        let p = quad * STRIDE_P + local / 8u;
        let p0 = weights[p];
        let p1 = weights[p + 16u];
        let p2 = weights[p + 32u];
        let p3 = weights[p + 48u];
        for (var c = 0u; c < CHUNK; c++) {
            let v = stage[quad * STRIDE_V + local % 8u + 8u * c];
            sums[c] += vec4<f32>(dot(p0, v), dot(p1, v), dot(p2, v), dot(p3, v));
        }
    }
    return sums;
}

// Component-wise maximum, and sum, over the eight invocations that share queries. `v` has been taken when it returns.
fn row_max(v: vec4<f32>, local: u32) -> vec4<f32> {
    stage[local % 8u * 16u + local / 8u] = v;
    // All eight are there.
    workgroupBarrier();
    var top = stage[local / 8u];
    for (var t = 1u; t < 8u; t++) { top = max(top, stage[16u * t + local / 8u]); }
    return top;
}

fn row_sum(v: vec4<f32>, local: u32) -> vec4<f32> {
    stage[local % 8u * 16u + local / 8u] = v;
    // All eight are there.
    workgroupBarrier();
    var sum = stage[local / 8u];
    for (var t = 1u; t < 8u; t++) { sum += stage[16u * t + local / 8u]; }
    return sum;
}

fn highest(v: vec4<f32>) -> f32 {
    return max(max(v.x, v.y), max(v.z, v.w));
}

@compute @workgroup_size(128)
fn attention(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let tiles = (params.queries + QUERIES - 1u) / QUERIES;
    let g = linear_group(group, groups);
    if (g >= tiles * SPLITS * params.heads * params.items) { return; }
    let l_first = params.query + g % tiles * QUERIES;
    let column = g / tiles % SPLITS * VALUES;
    let head = g / tiles / SPLITS % params.heads;
    let item = params.item + g / tiles / SPLITS / params.heads;
    // Queries past the end are the last one again.
    let l_last = params.query + params.queries - 1u;
    let tx = local % 8u;
    let ty = local / 8u;

    // Without a second segment, later keys than the last query sees need not be met.
    var total = params.keys + more(item);
    if (CAUSAL && !SEGMENT) { total = min(total, l_first + QUERIES); }
    var tops = vec4<f32>(LOWEST);
    var sums = vec4<f32>();
    var values: array<vec4<f32>, CHUNKS * CHUNK>;
    for (var first = 0u; first < total; first += KEYS) {
        // 1, 2. Scores.
        let raw = products(item, head, l_first, first, local);
        let j = first + 4u * tx;
        var s: array<vec4<f32>, 4>;
        for (var r = 0u; r < 4u; r++) {
            s[r] = scores(item, min(l_first + ty + 16u * r, l_last), j, total, raw[r]);
        }

        // 3. The new maxima; weights relative to them.
        let before = tops;
        tops = max(tops, row_max(vec4(highest(s[0]), highest(s[1]), highest(s[2]), highest(s[3])), local));
        let kept = exp(before - tops);
        let seen = vec4<u32>(j, j + 1u, j + 2u, j + 3u) < vec4<u32>(total);
        sums *= kept;
        for (var r = 0u; r < 4u; r++) {
            let p = select(vec4<f32>(), exp(s[r] - tops[r]), seen);
            weights[tx * STRIDE_P + ty + 16u * r] = p;
            sums[r] += dot(p, vec4<f32>(1.0));
        }
        // The weights are there, and the maxima have been taken from the stage.
        workgroupBarrier();

        // 4. Values.
        for (var chunk = 0u; chunk < CHUNKS; chunk++) {
            load_values(item, head, first, column + chunk * CHUNK_COLUMNS, local);
            // The step of values is there.
            workgroupBarrier();
            let added = weighted(local);
            for (var c = 0u; c < CHUNK; c++) {
                values[chunk * CHUNK + c] = values[chunk * CHUNK + c] * kept + added[c];
            }
            // All invocations are done with the step, and after the last one with the weights.
            workgroupBarrier();
        }
    }

    // 5. The quotients.
    let all = row_sum(sums, local);
    for (var r = 0u; r < 4u; r++) {
        let l = l_first + ty + 16u * r;
        let y = params.at_y + row_of(item, l) * params.columns + head * WIDTH;
        for (var c = 0u; c < CHUNKS * CHUNK; c++) {
            let d = tx + 8u * c;
            if (l <= l_last && d < VALUES && column + d < WIDTH) {
                write_y(y + column + d, values[c][r] / all[r]);
            }
        }
    }
}
