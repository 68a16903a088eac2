// what:   attention of one query and head to all its keys, for any extents and widths
// in/out: qkv [B,L,3C] or q [B,L,C], kv [Bk,M,2C]; kv2 [B2,M2,2C], mask [1|B,1|L,M] -> y [B,L,C], C = heads WIDTH
// launch: a line of queries * heads blocks of SPAN = 64; 4 (WIDTH + 64) static shared bytes
// work:   4 WIDTH flop per key; keys and values are read again by every query (from cache)
// needs:  nothing
// error:  f32 scores, softmax and sums; one rounding to the output's type
// idea:   the threads take one key each for the scores and one column each for the values, 64 keys at a time, with the
//         running maximum and sum of the streaming softmax

struct Params {
    // Attentions and queries of this launch: the first one, and how many.
    u32 item, items, query, queries;
    // Queries of an attention, and positions of a batch item.
    u32 all_queries, positions;
    // Keys of the two segments, batch items that share one item of each, and the first item that sees the second.
    u32 keys, keys2, share, share2, segment;
    // Heads, their columns taken together, length of the rows of queries and of keys, and the keys' first column.
    u32 heads, columns, q_stride, kv_stride, k_column;
    // Elements of the mask from item to item and from query to query; 0 where it is shared.
    u32 mask_item, mask_query;
    // What is added to an index of a whole operand to give its place in the operand bound, modulo 2^32.
    u32 at_q, at_kv, at_kv2, at_mask, at_y;
};

constexpr u32 SPAN = 64, OWN = (WIDTH + SPAN - 1) / SPAN;
// Below every score, and small enough that differences and their multiples are finite.
constexpr float LOWEST = -1.0e30f;

KERNEL __launch_bounds__(SPAN) attention(OPERANDS, const Params params) {
    __shared__ float query[WIDTH];
    // Scores of a block of keys, then their weights.
    __shared__ float scores[SPAN];
    u32 g = linear_block(), local = threadIdx.x;
    if (g >= params.items * params.queries * params.heads) return;
    u32 head = g % params.heads;
    u32 l = params.query + g / params.heads % params.queries;
    u32 item = params.item + g / params.heads / params.queries;
    u32 own = CAUSAL ? l + 1 : params.keys;
    u32 total = own + (SEGMENT && item >= params.segment ? params.keys2 : 0);
    // Row of query l, and of a key along frames, among all rows of the batch.
    auto row_of = [&](u32 at) -> u32 {
        if (!FRAMES) return item * params.all_queries + at;
        return (item / params.positions * params.all_queries + at) * params.positions + item % params.positions;
    };
    // First element of key j; its value is `columns` further.
    auto key_of = [&](u32 j) -> u32 {
        if (SEGMENT && j >= own) {
            u32 row = (item - params.segment) / params.share2 * params.keys2 + j - own;
            return params.at_kv2 + row * 2 * params.columns;
        }
        u32 row = FRAMES ? row_of(j) : item / params.share * params.keys + j;
        return (FRAMES || PACKED ? params.at_q : params.at_kv) + row * params.kv_stride + params.k_column;
    };
    // Element i of the keys and values of key j's segment.
    auto key_value = [&](u32 i, u32 j) -> float {
        if (SEGMENT && j >= own) return read_kv2(i);
        return PACKED ? read_q(i) : read_kv(i);
    };

    // 1. The query, scaled.
    u32 q_first = params.at_q + row_of(l) * params.q_stride + head * WIDTH;
    for (u32 d = local; d < WIDTH; d += SPAN) query[d] = SCALE * read_q(q_first + d);
    // The query is there.
    __syncthreads();

    float top = LOWEST, sum = 0.0f, values[OWN] = {};
    for (u32 first = 0; first < total; first += SPAN) {
        // 2. One score per thread.
        u32 count = total - first < SPAN ? total - first : SPAN, j = first + local;
        float mine = LOWEST;
        if (local < count) {
            u32 k = key_of(j) + head * WIDTH;
            float product = 0.0f;
            for (u32 d = 0; d < WIDTH; d++) product += query[d] * key_value(k + d, j);
            if (j < own) product += read_mask(params.at_mask + item * params.mask_item + l * params.mask_query + j);
            mine = fmaxf(product, LOWEST);
        }
        scores[local] = mine;
        // The block's scores are there.
        __syncthreads();

        // 3. The new maximum; weights relative to it.
        float before = top;
        for (u32 s = 0; s < count; s++) top = fmaxf(top, scores[s]);
        float kept = expf(before - top);
        // Every thread has seen the scores before they become weights.
        __syncthreads();
        scores[local] = local < count ? expf(mine - top) : 0.0f;
        // The block's weights are there.
        __syncthreads();

        // 4. Values of this thread's columns, and the sum of the weights.
        sum *= kept;
        for (u32 i = 0; i < OWN; i++) values[i] *= kept;
        for (u32 s = 0; s < count; s++) {
            float weight = scores[s];
            sum += weight;
            u32 v = key_of(first + s) + params.columns + head * WIDTH;
            for (u32 i = 0; i < OWN; i++) {
                u32 d = local + i * SPAN;
                if (d < WIDTH) values[i] += weight * key_value(v + d, first + s);
            }
        }
        // All weights have been read before the next block's scores overwrite them.
        __syncthreads();
    }

    // 5. The quotient.
    u32 y_first = params.at_y + row_of(l) * params.columns + head * WIDTH;
    for (u32 i = 0; i < OWN; i++) {
        u32 d = local + i * SPAN;
        if (d < WIDTH) write_y(y_first + d, values[i] / sum);
    }
}
