// what:   attention of QUERIES queries of a head to all their keys, on tensor cores
// in/out: qkv [B,L,3C] or q [B,L,C], kv [Bk,M,2C]; kv2 [B2,M2,2C], mask [1|B,1|L,M] -> y [B,L,C], C = heads WIDTH
// launch: a line of B heads ceil(L / QUERIES) blocks of 32 WARPS; 4 KEYS ROW dynamic shared bytes, ROW = 2 WIDTH and some
// work:   4 WIDTH flop and one exponential per query and key; keys and values read L / QUERIES times (from L2)
// needs:  f16 or bf16, compute capability 7.5 (bf16: 8.0), WIDTH a multiple of 8, QUERIES at most 2 KEYS
// error:  f32 scores, softmax and sums; weights rounded to the element type, one rounding to the output's type
// idea:   a ring of two tiles of keys and values; queries stay in registers and came through the ring's second place. The
//         weights never leave the registers of the warp that made them

struct Params {
    // Batch items, queries of each, tiles of queries; keys of the two segments.
    u32 items, queries, tiles, keys, keys2;
    // Batch items that share one item of each segment, and the first item that sees the second.
    u32 share, share2, segment;
    // Heads, their columns taken together, length of the rows of queries and of keys, and the keys' first column.
    u32 heads, columns, q_stride, kv_stride, k_column;
    // Elements of the mask from item to item and from query to query; 0 where it is shared.
    u32 mask_item, mask_query;
};

constexpr u32 THREADS = 32 * WARPS, TILE = KEYS * ROW;
constexpr int MI = QUERIES / WARPS / 16, NK = KEYS / 8;

KERNEL __launch_bounds__(THREADS, 256 / THREADS) attention(OPERANDS, const Params params) {
    DYNAMIC_SHARED(shared);
    const u32 id = linear_block();
    if (id >= params.items * params.heads * params.tiles) return;
    const u32 first_query = id % params.tiles * QUERIES, head = id / params.tiles % params.heads;
    const u32 item = id / params.tiles / params.heads, thread = threadIdx.x;
    const u32 left = params.queries - first_query, count = left < QUERIES ? left : QUERIES;
    const u32 own = CAUSAL ? first_query + count : params.keys, tiles = (own + KEYS - 1) / KEYS;
    const u32 keys2 = SEGMENT && item >= params.segment ? params.keys2 : 0;
    const u32 all_tiles = tiles + (keys2 + KEYS - 1) / KEYS;
    const elem* queries = q + (u64)(item * params.queries + first_query) * params.q_stride + head * WIDTH;
    const elem* keys = kv + (u64)(item / params.share) * params.keys * params.kv_stride + params.k_column + head * WIDTH;
    const elem* more = kv2;
    if (keys2) more += (u64)((item - params.segment) / params.share2) * keys2 * 2 * params.columns + head * WIDTH;
    // Tile t of the keys and, KEYS rows further, of their values. A tile holds keys of one segment.
    auto fetch = [&](u32 t) {
        const bool second = SEGMENT && t >= tiles;
        const u32 first = (second ? t - tiles : t) * KEYS, stride = second ? 2 * params.columns : params.kv_stride;
        const u32 rest = (second ? keys2 : own) - first;
        const elem* from = (second ? more : keys) + (u64)first * stride;
        u8* to = shared + (t & 1) * 2 * TILE;
        fetch_rows<KEYS, THREADS>(to, from, rest, stride, thread);
        fetch_rows<KEYS, THREADS>(to + TILE, from + params.columns, rest, stride, thread);
    };

    // 1. Queries to the ring's second place, and from there to registers; the first tile of keys to the ring's first.
    const u32 warp_query = thread / 32 * (MI * 16);
    u32 a[STEPS][MI][4];
    Softmax<MI> state;
    float o[MI][NV][4];
    clear_ends(shared, 4 * KEYS, thread, THREADS);
    fetch_rows<QUERIES, THREADS>(shared + 2 * TILE, queries, count, params.q_stride, thread);
    copy_async_commit();
    fetch(0);
    copy_async_commit();
    copy_async_wait<1>();
    // The queries and the zeros beside them are there.
    __syncthreads();
    load_queries(a, shared + 2 * TILE, warp_query);
    begin(state, o);

    for (u32 t = 0; t < all_tiles; t++) {
        // 2. This tile is there; the other is asked for while it is used.
        copy_async_wait<0>();
        // This tile is there for all threads, and all have done with the place that is filled next (first: have their queries).
        __syncthreads();
        if (t + 1 < all_tiles) fetch(t + 1);
        copy_async_commit();

        // 3. Scores; masked, and none for keys that are not there.
        const u8* tile = shared + (t & 1) * 2 * TILE;
        const bool second = SEGMENT && t >= tiles;
        const u32 first = (second ? t - tiles : t) * KEYS, end = second ? keys2 : own;
        float s[MI][NK][4];
        multiply_keys(s, a, tile);
        if (MASK || first + KEYS > end || (CAUSAL && !second && first + KEYS > first_query)) {
#pragma unroll
            for (int i = 0; i < MI; i++)
#pragma unroll
                for (int j = 0; j < NK; j++)
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        const u32 query = first_query + warp_query + i * 16 + e / 2 * 8 + lane_row();
                        const u32 limit = CAUSAL && !second && query < end ? query + 1 : end;
                        const u32 key = first + j * 8 + lane_column() + e % 2;
                        if (MASK) {
                            // Rows beyond the last query have no mask; what they become is not stored.
                            const bool masked = !second && key < limit && query < params.queries;
                            const u32 at = item * params.mask_item + query * params.mask_query + key;
                            s[i][j][e] = fmaxf(s[i][j][e] * SCALE + (masked ? read_mask(at) : 0.0f), LOWEST);
                        }
                        if (key >= limit) s[i][j][e] = nothing();
                    }
        }

        // 4. Softmax, values.
        weigh(state, s, o);
        multiply_values(o, s, tile + TILE);
    }

    // 5. The quotient.
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const u32 query = first_query + warp_query + i * 16 + h * 8 + lane_row();
            elem* to = y + (u64)(item * params.queries + query) * params.columns + head * WIDTH;
            store_row(to, query < params.queries, state, o, i, h);
        }
}
