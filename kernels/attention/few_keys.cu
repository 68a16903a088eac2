// what:   attention of the queries of a head to at most 128 keys, which stay in shared memory, on tensor cores
// in/out: qkv [B,L,3C] or q [B,L,C], kv [Bk,M,2C], mask [1|B,1|L,M] -> y [B,L,C], C = heads WIDTH
// launch: a line of B heads ceil(tiles / ROUNDS) blocks of 32 WARPS, with a tile of QUERIES = 16 WARPS queries;
//         2 (KEYS + QUERIES) ROW dynamic shared bytes, ROW = 2 WIDTH and some; KEYS is M to whole 16
// work:   4 WIDTH flop and one exponential per query and key; each operand read once but for L / (QUERIES ROUNDS) times the
//         keys and values (from L2): bound by the queries and the result
// needs:  f16 or bf16, compute capability 7.5 (bf16: 8.0), WIDTH a multiple of 8, one segment of at most 128 keys
// error:  f32 scores, softmax and sums; weights rounded to the element type, one rounding to the output's type
// idea:   all scores of a query fit in registers, so that its softmax is done at once; tiles of queries follow one another
//         through a ring of two while keys and values stay

struct Params {
    // Batch items, queries of each, tiles of queries, blocks along them; keys, and batch items that share them.
    u32 items, queries, tiles, spans, keys, share;
    // Heads, their columns taken together, length of the rows of queries and of keys, and the keys' first column.
    u32 heads, columns, q_stride, kv_stride, k_column;
    // Elements of the mask from item to item and from query to query; 0 where it is shared.
    u32 mask_item, mask_query;
};

constexpr u32 THREADS = 32 * WARPS, QUERIES = 16 * WARPS;
constexpr int NK = KEYS / 8;

KERNEL __launch_bounds__(THREADS) attention(OPERANDS, const Params params) {
    DYNAMIC_SHARED(shared);
    const u32 id = linear_block(), thread = threadIdx.x;
    if (id >= params.items * params.heads * params.spans) return;
    const u32 first_tile = id % params.spans * ROUNDS, head = id / params.spans % params.heads;
    const u32 item = id / params.spans / params.heads;
    const u32 rest = params.tiles - first_tile, rounds = rest < ROUNDS ? rest : ROUNDS;
    u8* values = shared + KEYS * ROW;
    u8* ring = values + KEYS * ROW;
    auto fetch = [&](u32 round) {
        const u32 first = (first_tile + round) * QUERIES;
        const elem* from = q + (u64)(item * params.queries + first) * params.q_stride + head * WIDTH;
        fetch_rows<QUERIES, THREADS>(ring + (round & 1) * QUERIES * ROW, from, params.queries - first, params.q_stride, thread);
    };

    // 1. Keys, values and the first queries.
    const elem* keys = kv + (u64)(item / params.share) * params.keys * params.kv_stride + params.k_column + head * WIDTH;
    clear_ends(shared, 2 * (KEYS + QUERIES), thread, THREADS);
    fetch_rows<KEYS, THREADS>(shared, keys, params.keys, params.kv_stride, thread);
    fetch_rows<KEYS, THREADS>(values, keys + params.columns, params.keys, params.kv_stride, thread);
    fetch(0);
    copy_async_commit();

    for (u32 round = 0; round < rounds; round++) {
        // 2. This round's queries are there; the next are asked for.
        copy_async_wait<0>();
        // Keys, values and queries are there for all threads, and all have done with the queries' other place.
        __syncthreads();
        if (round + 1 < rounds) fetch(round + 1);
        copy_async_commit();
        const u32 in_tile = thread / 32 * 16, first_query = (first_tile + round) * QUERIES + in_tile + lane_row();
        u32 a[STEPS][1][4];
        load_queries(a, ring + (round & 1) * QUERIES * ROW, in_tile);

        // 3. Scores; masked, and none for keys that are not there.
        float s[1][NK][4];
        multiply_keys(s, a, shared);
#pragma unroll
        for (int j = 0; j < NK; j++) {
            // Only the last two tiles of keys can end early.
            if (!MASK && j < NK - 2) continue;
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const u32 query = first_query + e / 2 * 8, key = j * 8 + lane_column() + e % 2;
                if (MASK) {
                    // Rows beyond the last query have no mask; what they become is not stored.
                    const bool masked = key < params.keys && query < params.queries;
                    const u32 at = item * params.mask_item + query * params.mask_query + key;
                    s[0][j][e] = fmaxf(s[0][j][e] * SCALE + (masked ? read_mask(at) : 0.0f), LOWEST);
                }
                if (key >= params.keys) s[0][j][e] = nothing();
            }
        }

        // 4. Softmax, values, the quotient.
        Softmax<1> state;
        float o[1][NV][4];
        begin(state, o);
        weigh(state, s, o);
        multiply_values(o, s, values);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const u32 query = first_query + h * 8;
            elem* to = y + (u64)(item * params.queries + query) * params.columns + head * WIDTH;
            store_row(to, query < params.queries, state, o, 0, h);
        }
    }
}
