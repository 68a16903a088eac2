// what:   attention of one query and head to all its keys, for any extents and widths
// in/out: qkv [B,L,3C] or q [B,L,C], kv [Bk,M,2C]; kv2 [B2,M2,2C], mask [1|B,1|L,M] -> y [B,L,C], C = heads WIDTH
// launch: a line of queries * heads workgroups of SPAN = 64; WIDTH + 64 floats of workgroup memory
// work:   4 WIDTH flop per key; keys and values are read again by every query (from cache)
// needs:  nothing
// error:  f32 scores, softmax and sums; one rounding to the output's type
// idea:   the invocations take one key each for the scores and one column each for the values, 64 keys at a time, with the
//         running maximum and sum of the streaming softmax

const SPAN = 64u;
const OWN = (WIDTH + SPAN - 1u) / SPAN;

var<workgroup> query: array<f32, WIDTH>;
// Scores of a block of keys, then their weights.
var<workgroup> scores: array<f32, SPAN>;

fn score(item: u32, head: u32, l: u32, j: u32, own: u32) -> f32 {
    let k = element_of(item, j, own) + head * WIDTH;
    var sum = 0.0;
    for (var d = 0u; d < WIDTH; d++) {
        sum += query[d] * key_value(k + d, j >= own);
    }
    if (j < own) { sum += mask_at(item, l, j); }
    return max(sum, LOWEST);
}

@compute @workgroup_size(SPAN)
fn attention(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let g = linear_group(group, groups);
    if (g >= params.items * params.queries * params.heads) { return; }
    let head = g % params.heads;
    let l = params.query + g / params.heads % params.queries;
    let item = params.item + g / params.heads / params.queries;
    let own = visible(l);
    let total = own + more(item);

    // 1. The query, scaled.
    let q = params.at_q + row_of(item, l) * params.q_stride + head * WIDTH;
    for (var d = local; d < WIDTH; d += SPAN) {
        query[d] = SCALE * read_q(q + d);
    }
    // The query is there.
    workgroupBarrier();

    var top = LOWEST;
    var sum = 0.0;
    var values: array<f32, OWN>;
    for (var first = 0u; first < total; first += SPAN) {
        // 2. One score per invocation.
        let count = min(SPAN, total - first);
        var mine = LOWEST;
        if (local < count) { mine = score(item, head, l, first + local, own); }
        scores[local] = mine;
        // The block's scores are there.
        workgroupBarrier();

        // 3. The new maximum; weights relative to it.
        let before = top;
        for (var j = 0u; j < count; j++) { top = max(top, scores[j]); }
        let kept = exp(before - top);
        // Every invocation has seen the scores before they become weights.
        workgroupBarrier();
        scores[local] = select(0.0, exp(mine - top), local < count);
        // The block's weights are there.
        workgroupBarrier();

        // 4. Values of this invocation's columns, and the sum of the weights.
        sum *= kept;
        for (var i = 0u; i < OWN; i++) { values[i] *= kept; }
        for (var j = 0u; j < count; j++) {
            let weight = scores[j];
            sum += weight;
            let v = element_of(item, first + j, own) + params.columns + head * WIDTH;
            for (var i = 0u; i < OWN; i++) {
                let d = local + i * SPAN;
                if (d < WIDTH) { values[i] += weight * key_value(v + d, first + j >= own); }
            }
        }
        // All weights have been read before the next block's scores overwrite them.
        workgroupBarrier();
    }

    // 5. The quotient.
    let y = params.at_y + row_of(item, l) * params.columns + head * WIDTH;
    for (var i = 0u; i < OWN; i++) {
        let d = local + i * SPAN;
        if (d < WIDTH) { write_y(y + d, values[i] / sum); }
    }
}
