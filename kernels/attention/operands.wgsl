// what:   where queries, keys, values, masks and results lie: what all variants of attention share
//
// An attention is a batch item's over its positions, or, along frames, a clip's and position's over its frames.

struct Params {
    // Attentions and queries of this launch: the first one, and how many.
    item: u32,
    items: u32,
    query: u32,
    queries: u32,
    // Queries of an attention, and positions of a batch item.
    all_queries: u32,
    positions: u32,
    // Keys of the two segments, batch items that share one item of each, and the first item that sees the second.
    keys: u32,
    keys2: u32,
    share: u32,
    share2: u32,
    segment: u32,
    // Heads, their columns taken together, length of the rows of queries and of keys, and the keys' first column.
    heads: u32,
    columns: u32,
    q_stride: u32,
    kv_stride: u32,
    k_column: u32,
    // Elements of the mask from item to item and from query to query; 0 where it is shared.
    mask_item: u32,
    mask_query: u32,
    // What is added to an index of a whole operand to give its place in the binding, modulo 2^32.
    at_q: u32,
    at_kv: u32,
    at_kv2: u32,
    at_mask: u32,
    at_y: u32,
}

// Below every score, and small enough that differences and their multiples are finite.
const LOWEST = -1.0e30;

// Row of query l, and of a key along frames, among all rows of the batch.
fn row_of(item: u32, l: u32) -> u32 {
    if (FRAMES) {
        return (item / params.positions * params.all_queries + l) * params.positions + item % params.positions;
    }
    return item * params.all_queries + l;
}

// Keys of the first segment that query l sees.
fn visible(l: u32) -> u32 {
    return select(params.keys, l + 1u, CAUSAL);
}

// Keys of the second segment that an item sees.
fn more(item: u32) -> u32 {
    if (!SEGMENT) { return 0u; }
    return select(0u, params.keys2, item >= params.segment);
}

// First element of key j of the first segment, in its binding; its value is `columns` further.
fn key_at(item: u32, j: u32) -> u32 {
    if (FRAMES) { return params.at_q + row_of(item, j) * params.kv_stride + params.k_column; }
    let row = item / params.share * params.keys + j;
    return select(params.at_kv, params.at_q, PACKED) + row * params.kv_stride + params.k_column;
}

// First element of key j of the second segment, in its binding.
fn key2_at(item: u32, j: u32) -> u32 {
    return params.at_kv2 + ((item - params.segment) / params.share2 * params.keys2 + j) * 2u * params.columns;
}

// Element i of the keys and values of a segment.
fn key_value(i: u32, second: bool) -> f32 {
    if (SEGMENT && second) { return read_kv2(i); }
    if (PACKED) { return read_q(i); }
    return read_kv(i);
}

// First element of the key of number j, of which the first `own` are in the first segment.
fn element_of(item: u32, j: u32, own: u32) -> u32 {
    if (SEGMENT && j >= own) { return key2_at(item, j - own); }
    return key_at(item, j);
}

// What is added to the score of query l and key j of the first segment.
fn mask_at(item: u32, l: u32, j: u32) -> f32 {
    return read_mask(params.at_mask + item * params.mask_item + l * params.mask_query + j);
}
