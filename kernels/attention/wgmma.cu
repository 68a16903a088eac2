// what:   attention of 128 queries of a head to all their keys, on the tensor cores of compute capability 9.0
// in/out: qkv [B,L,3C] or q [B,L,C], kv [Bk,M,2C]; kv2 [B2,M2,2C] -> y [B,L,C], C = heads WIDTH
// launch: a line of B heads ceil(L / 128) blocks of 384; PADDED (256 + 4 KEYS STAGES) + 16 STAGES dynamic shared bytes,
//         PADDED = WIDTH to whole 16
// work:   4 WIDTH flop and one exponential per query and key; keys and values read L / 128 times (from L2)
// needs:  f16 or bf16, compute capability 9.0, WIDTH one of 32, 40, 64, 80, 128, 160; no mask, not causal
// error:  f32 scores, softmax and sums; weights rounded to the element type, one rounding to the output's type
// idea:   one warpgroup copies keys and values to a ring (BOXED: one thread, in boxes of one chunk), two take 64 queries each:
//         while one weighs, the other multiplies. Rows lie in matrices of eight rows and 16 bytes, which serve as keys along k
//         and as values along columns alike

struct Params {
    // Batch items, queries of each, tiles of queries; keys of the two segments.
    u32 items, queries, tiles, keys, keys2;
    // Batch items that share one item of each segment, and the first item that sees the second.
    u32 share, share2, segment;
    // Heads, their columns taken together, length of the rows of queries and of keys, and the keys' first column.
    u32 heads, columns, q_stride, kv_stride, k_column;
};

constexpr u32 QUERIES = 128, PADDED = STEPS * 16, TILE = KEYS * PADDED * 2, AHEAD = STAGES - 1;
constexpr int NK = KEYS / 8;

// Place of chunk c of a row in a tile of ROWS rows.
template <u32 ROWS> DEV u32 place(u32 row, u32 c) { return (c * ROWS + row) * 16; }

// As `fetch_rows`, to matrices: eight rows of a chunk are neighbours, in memory's order of threads as in shared memory's.
template <u32 ROWS> DEV void fetch_matrices(u8* tile, const elem* from, u32 count, u32 stride, u32 worker) {
    constexpr u32 ALL = ROWS * CHUNKS;
#pragma unroll
    for (u32 i = 0; i < (ALL + 127) / 128; i++) {
        const u32 at = i * 128 + worker;
        if (ALL % 128 && at >= ALL) break;
        const u32 row = at / 8 / CHUNKS * 8 + at % 8, chunk = at / 8 % CHUNKS;
        const bool inside = row < count;
        copy_async_16(tile + place<ROWS>(row, chunk), inside ? from + (u64)row * stride + chunk * 8 : from, inside);
    }
}

// Zeros in the chunk after the last, where the last step along the width reads it.
template <u32 ROWS> DEV void clear_last(u8* tile, u32 worker) {
    if (CHUNKS % 2 == 0) return;
    for (u32 r = worker; r < ROWS; r += 128) *(Vec<u32, 4>*)(tile + place<ROWS>(r, CHUNKS)) = Vec<u32, 4>{{0, 0, 0, 0}};
}

KERNEL __launch_bounds__(384, 1) attention(OPERANDS, const Params params) {
    DYNAMIC_SHARED(shared);
    const u32 id = linear_block();
    if (id >= params.items * params.heads * params.tiles) return;
    const u32 first_query = id % params.tiles * QUERIES, head = id / params.tiles % params.heads;
    const u32 item = id / params.tiles / params.heads, thread = threadIdx.x % 128, group = threadIdx.x / 128;
    const u32 keys2 = SEGMENT && item >= params.segment ? params.keys2 : 0;
    const u32 tiles = (params.keys + KEYS - 1) / KEYS, all_tiles = tiles + (keys2 + KEYS - 1) / KEYS;
    // Queries; then stages of keys and values; then two barriers of each.
    u8* ring = shared + QUERIES * PADDED * 2;
    u64* full = (u64*)(ring + STAGES * 2 * TILE);
    u64* empty = full + STAGES;
    if (threadIdx.x == 0) {
        for (u32 s = 0; s < STAGES; s++) barrier_make(full + s, BOXED ? 1 : 128), barrier_make(empty + s, 8);
        barriers_made();
    }
    if (BOXED && group == 0) {
        clear_last<QUERIES>(shared, thread);
        for (u32 s = 0; s < 2 * STAGES; s++) clear_last<KEYS>(ring + s * TILE, thread);
        publish();
    }
    // The barriers are there.
    __syncthreads();

    // 1. Copies: queries with the first keys. A stage is handed over AHEAD tiles after it was asked for.
    if (group == 0) {
        fewer_registers<COPY_REGISTERS>();
        if (BOXED && thread > 0) return;
        const u32 column = head * WIDTH;
        for (u32 t = 0; BOXED && t < all_tiles; t++) {
            u64* filled = full + t % STAGES;
            u8* to = ring + t % STAGES * 2 * TILE;
            // The products of the tile that had this stage before are done.
            if (t >= STAGES) barrier_wait(empty + t % STAGES, (t / STAGES - 1) & 1);
            barrier_expect(filled, (2 * KEYS + (t == 0 ? QUERIES : 0)) * CHUNKS * 16);
#pragma unroll 1
            for (u32 c = 0; c < CHUNKS; c++) {
                const u32 k = params.k_column + column + c * 8, k2 = column + c * 8, first = t * KEYS;
                if (t == 0) copy_box(shared + place<QUERIES>(0, c), &q_map, column + c * 8, first_query, item, 0, filled);
                if (SEGMENT && t >= tiles) {
                    const u32 layer = (item - params.segment) / params.share2, own = first - tiles * KEYS;
                    copy_box(to + place<KEYS>(0, c), &kv2_map, k2, own, layer, 0, filled);
                    copy_box(to + TILE + place<KEYS>(0, c), &kv2_map, k2 + params.columns, own, layer, 0, filled);
                } else {
                    copy_box(to + place<KEYS>(0, c), &kv_map, k, first, item / params.share, 0, filled);
                    copy_box(to + TILE + place<KEYS>(0, c), &kv_map, k + params.columns, first, item / params.share, 0, filled);
                }
            }
        }
        if (BOXED) return;
        const elem* keys = kv + (u64)(item / params.share) * params.keys * params.kv_stride + params.k_column + head * WIDTH;
        const elem* more = kv2;
        if (keys2) more += (u64)((item - params.segment) / params.share2) * keys2 * 2 * params.columns + head * WIDTH;
        const elem* queries = q + (u64)(item * params.queries + first_query) * params.q_stride + head * WIDTH;
        clear_last<QUERIES>(shared, thread);
        for (u32 s = 0; s < STAGES; s++) clear_last<KEYS>(ring + s * 2 * TILE, thread);
        fetch_matrices<QUERIES>(shared, queries, params.queries - first_query, params.q_stride, thread);
        for (u32 t = 0; t < all_tiles + AHEAD; t++) {
            if (t < all_tiles) {
                // The products of the tile that had this stage before are done.
                if (t >= STAGES) barrier_wait(empty + t % STAGES, (t / STAGES - 1) & 1);
                const bool second = SEGMENT && t >= tiles;
                const u32 first = (second ? t - tiles : t) * KEYS, stride = second ? 2 * params.columns : params.kv_stride;
                const u32 rest = (second ? keys2 : params.keys) - first;
                const elem* from = (second ? more : keys) + (u64)first * stride;
                u8* to = ring + t % STAGES * 2 * TILE;
                fetch_matrices<KEYS>(to, from, rest, stride, thread);
                fetch_matrices<KEYS>(to + TILE, from + params.columns, rest, stride, thread);
            }
            copy_async_commit();
            if (t < AHEAD) continue;
            copy_async_wait<AHEAD>();
            publish();
            barrier_arrive(full + (t - AHEAD) % STAGES);
        }
        return;
    }
    more_registers<SUM_REGISTERS>();
    const u8* queries = shared + (group - 1) * 64 * 16;
    Softmax<1> state;
    float o[1][NV][4];
    begin(state, o);
    for (u32 t = 0; t < all_tiles; t++) {
        // 2. Scores; none for keys that are not there.
        const u8* tile = ring + t % STAGES * 2 * TILE;
        float s[1][NK][4];
#pragma unroll
        for (int j = 0; j < NK; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) s[0][j][e] = 0.0f;
        barrier_wait(full + t % STAGES, t / STAGES & 1);
        hold(s[0]);
        products_begin();
#pragma unroll
        for (u32 k = 0; k < STEPS; k++)
            product<BF16>(s[0], matrices(queries + place<QUERIES>(0, 2 * k), 128, QUERIES * 16),
                          matrices(tile + place<KEYS>(0, 2 * k), 128, KEYS * 16));
        products_commit();
        products_wait<0>();
        hold(s[0]);
        const bool second = SEGMENT && t >= tiles;
        const u32 first = (second ? t - tiles : t) * KEYS, end = second ? keys2 : params.keys;
        if (first + KEYS > end) {
#pragma unroll
            for (int j = 0; j < NK; j++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    if (first + j * 8 + lane_column() + e % 2 >= end) s[0][j][e] = nothing();
        }

        // 3. Softmax, values.
        weigh(state, s, o);
        u32 weights[NK / 2][4];
#pragma unroll
        for (int k = 0; k < NK / 2; k++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                weights[k][e] = pack<BF16>(s[0][2 * k + e / 2][e % 2 * 2], s[0][2 * k + e / 2][e % 2 * 2 + 1]);
        hold(o[0]);
        products_begin();
#pragma unroll
        for (u32 k = 0; k < NK / 2; k++)
            product_of_registers<BF16>(o[0], weights[k], matrices(tile + TILE + place<KEYS>(k * 16, 0), KEYS * 16, 128));
        products_commit();
        products_wait<0>();
        hold(o[0]);
        if (threadIdx.x % 32 == 0) barrier_arrive(empty + t % STAGES);
    }

    // 4. The quotient.
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const u32 query = first_query + (group - 1) * 64 + thread / 32 * 16 + h * 8 + lane_row();
        elem* to = y + (u64)(item * params.queries + query) * params.columns + head * WIDTH;
        store_row(to, query < params.queries, state, o, 0, h);
    }
}
