// what:   attention of QUERIES queries of a head of up to 512 columns to all keys, on tensor cores
// in/out: qkv [B,L,3C] or q [B,L,C], kv [Bk,M,2C] -> y [B,L,C], C = heads WIDTH
// launch: a line of B heads ceil(L / QUERIES) blocks of 32 WARPS; (QUERIES + 2 KEYS) ROW + QUERIES (2 KEYS + 16) +
//         4 QUERIES (KEYS / 8 + 1) dynamic shared bytes, ROW = 2 WIDTH and some
// work:   4 WIDTH flop and one exponential per query and key; keys and values read L / QUERIES times (from L2)
// needs:  f16 or bf16, compute capability 7.5 (bf16: 8.0), WIDTH a multiple of 8, no mask and one segment
// error:  f32 scores, softmax and sums; weights rounded to the element type, one rounding to the output's type
// idea:   the values of so wide a head fill the registers of a whole block: each warp keeps a slice of the columns for all
//         queries. The scores are made once, by one warp for 16 queries and 16 keys, and their weights handed over in shared
//         memory: dividing the width among blocks would make the scores again in each. Values come in while scores are made,
//         the next keys while values are summed

struct Params {
    // Batch items, queries of each, tiles of queries; keys, and batch items that share them.
    u32 items, queries, tiles, keys, share;
    // Heads, their columns taken together, length of the rows of queries and of keys, and the keys' first column.
    u32 heads, columns, q_stride, kv_stride, k_column;
};

constexpr u32 THREADS = 32 * WARPS, SPANS = KEYS / 16, PAIRS = QUERIES / 16 * SPANS;
static_assert(PAIRS <= WARPS, "every 16 queries and 16 keys have a warp");
constexpr int MI = QUERIES / 16;
// Tiles of eight columns of a warp: an even number.
constexpr int NJ = (NV + 2 * WARPS - 1) / (2 * WARPS) * 2;
// Bytes of a row of weights: again an odd number of chunks.
constexpr u32 WEIGHTS = KEYS * 2 + 16;

KERNEL __launch_bounds__(THREADS) attention(OPERANDS, const Params params) {
    DYNAMIC_SHARED(shared);
    const u32 id = linear_block(), thread = threadIdx.x, lane = thread & 31, warp = thread / 32;
    if (id >= params.items * params.heads * params.tiles) return;
    const u32 first_query = id % params.tiles * QUERIES, head = id / params.tiles % params.heads;
    const u32 item = id / params.tiles / params.heads, tiles = (params.keys + KEYS - 1) / KEYS;
    u8* key_tile = shared + QUERIES * ROW;
    u8* value_tile = key_tile + KEYS * ROW;
    u8* weights = value_tile + KEYS * ROW;
    // Maxima of each row over 16 keys; then what the sums so far are multiplied by.
    float* maxima = (float*)(weights + QUERIES * WEIGHTS);
    float* sums = maxima + QUERIES * SPANS;
    float* kept = sums + QUERIES * SPANS;
    const elem* keys = kv + (u64)(item / params.share) * params.keys * params.kv_stride + params.k_column + head * WIDTH;
    auto fetch = [&](u8* to, const elem* from, u32 t) {
        const u32 first = t * KEYS;
        fetch_rows<KEYS, THREADS>(to, from + (u64)first * params.kv_stride, params.keys - first, params.kv_stride, thread);
    };

    // 1. Queries and the first keys.
    const elem* queries = q + (u64)(item * params.queries + first_query) * params.q_stride + head * WIDTH;
    clear_ends(shared, QUERIES + KEYS, thread, THREADS);
    fetch_rows<QUERIES, THREADS>(shared, queries, params.queries - first_query, params.q_stride, thread);
    fetch(key_tile, keys, 0);
    copy_async_commit();
    // This warp's 16 queries and 16 keys of each tile of scores, and the two rows that this lane has of them.
    const u32 row = warp / SPANS * 16, span = warp % SPANS, own = row + lane_row();
    float top[2] = {LOWEST, LOWEST}, sum[2] = {0.0f, 0.0f};
    float o[MI][NJ][4];
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NJ; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) o[i][j][e] = 0.0f;

    for (u32 t = 0; t < tiles; t++) {
        copy_async_wait<0>();
        // This tile's keys are there for all threads, and all have done with the values and weights before them.
        __syncthreads();
        fetch(value_tile, keys + params.columns, t);
        copy_async_commit();

        // 2. Scores, none for keys that are not there; the maximum of each row.
        float s[1][2][4] = {};
        if (warp < PAIRS) {
            for (int k = 0; k < STEPS; k++) {
                u32 a[1][4], r[4];
                ldmatrix_x4(a[0], shared + (row + (lane & 15)) * ROW + (k * 2 + (lane >> 4)) * 16);
                ldmatrix_x4(r, key_tile + (span * 16 + (lane & 7) + (lane >> 4) * 8) * ROW + (k * 2 + (lane >> 3 & 1)) * 16);
                const u32 b[2][2] = {{r[0], r[1]}, {r[2], r[3]}};
                mma_tile<BF16>(s, a, b);
            }
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float most = LOWEST;
#pragma unroll
                for (int j = 0; j < 2; j++)
#pragma unroll
                    for (int e = 2 * h; e < 2 * h + 2; e++) {
                        if (t * KEYS + span * 16 + j * 8 + lane_column() + e % 2 >= params.keys) s[0][j][e] = nothing();
                        most = fmaxf(most, s[0][j][e]);
                    }
                most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
                most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
                if ((lane & 3) == 0) maxima[(own + h * 8) * SPANS + span] = most;
            }
        }
        // The maxima are there, and all have done with the keys.
        __syncthreads();
        if (t + 1 < tiles) fetch(key_tile, keys, t + 1);
        copy_async_commit();

        // 3. Weights relative to the new maxima.
        if (warp < PAIRS) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const float before = top[h];
#pragma unroll
                for (u32 i = 0; i < SPANS; i++) top[h] = fmaxf(top[h], maxima[(own + h * 8) * SPANS + i]);
                const float factor = exp2_fast((before - top[h]) * FACTOR), shift = top[h] * FACTOR;
                sum[h] *= factor;
                if (span == 0 && (lane & 3) == 0) kept[own + h * 8] = factor;
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    const float w0 = exp2_fast(s[0][j][2 * h] * FACTOR - shift);
                    const float w1 = exp2_fast(s[0][j][2 * h + 1] * FACTOR - shift);
                    sum[h] += w0 + w1;
                    u8* to = weights + (own + h * 8) * WEIGHTS + (span * 16 + j * 8 + lane_column()) * 2;
                    *(u32*)to = pack<BF16>(w0, w1);
                }
            }
        }
        copy_async_wait<1>();
        // The weights and this tile's values are there for all threads.
        __syncthreads();

        // 4. Values of this warp's columns.
#pragma unroll
        for (int i = 0; i < MI; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const float factor = kept[i * 16 + h * 8 + lane_row()];
#pragma unroll
                for (int j = 0; j < NJ; j++) o[i][j][2 * h] *= factor, o[i][j][2 * h + 1] *= factor;
            }
#pragma unroll
        for (u32 k = 0; k < SPANS; k++) {
            u32 a[MI][4], b[NJ][2];
#pragma unroll
            for (int i = 0; i < MI; i++) ldmatrix_x4(a[i], weights + (i * 16 + (lane & 15)) * WEIGHTS + (k * 2 + (lane >> 4)) * 16);
#pragma unroll
            for (int j = 0; j < NJ; j += 2) {
                u32 r[4], chunk = warp * NJ + j + (lane >> 4);
                // Columns beyond the width are not stored: any will do.
                chunk = chunk < CHUNKS ? chunk : 0;
                ldmatrix_x4_transposed(r, value_tile + (k * 16 + (lane & 15)) * ROW + chunk * 16);
                b[j][0] = r[0], b[j][1] = r[1], b[j + 1][0] = r[2], b[j + 1][1] = r[3];
            }
            mma_tile<BF16>(o, a, b);
        }
    }

    // 5. Sums of the weights of each row, the quotient.
    if (warp < PAIRS) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float all = sum[h];
            all += __shfl_xor_sync(0xffffffffu, all, 1);
            all += __shfl_xor_sync(0xffffffffu, all, 2);
            if ((lane & 3) == 0) sums[(own + h * 8) * SPANS + span] = all;
        }
    }
    // The sums are there.
    __syncthreads();
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const u32 in_tile = i * 16 + h * 8 + lane_row(), query = first_query + in_tile;
            if (query >= params.queries) continue;
            float all = 0.0f;
#pragma unroll
            for (u32 k = 0; k < SPANS; k++) all += sums[in_tile * SPANS + k];
            const float share = quotient(1.0f, all);
            elem* to = y + (u64)(item * params.queries + query) * params.columns + head * WIDTH;
#pragma unroll
            for (int j = 0; j < NJ; j++) {
                const u32 column = (warp * NJ + j) * 8 + lane_column();
                if (column < WIDTH) *(u32*)(to + column) = pack<BF16>(o[i][j][2 * h] * share, o[i][j][2 * h + 1] * share);
            }
        }
}
