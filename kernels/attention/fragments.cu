#line 2 "kernels/attention/fragments.cu"
// What the attention kernels on tensor cores share: rows of heads in shared memory, scores and values as fragments of a warp,
// and the streaming softmax between them.
//
// A row of WIDTH elements takes an odd number of 16-byte chunks, so that one chunk of eight neighbouring rows lies in eight
// different groups of banks. Sums go over whole steps of 16 columns: where WIDTH ends inside one, the chunk after it is zero,
// in queries and keys (`clear_ends`). A warp has 16 MI queries; lane l holds rows l/4 and l/4 + 8 of each 16, and of each
// eight columns 2(l%4) and 2(l%4) + 1. Needs 16-bit elements, WIDTH a multiple of 8, compute capability 7.5 (bf16: 8.0).

constexpr u32 CHUNKS = WIDTH / 8;
constexpr int STEPS = (WIDTH + 15) / 16, NV = WIDTH / 8;
constexpr u32 ROW = (2 * STEPS | 1) * 16;
constexpr float LOG2E = 1.44269504f;
// What differences of scores are multiplied by, in the exponent of 2. A mask is added to scores that have been scaled.
constexpr float FACTOR = MASK ? LOG2E : SCALE * LOG2E;
// Below every score, and small enough that differences and their multiples are finite.
constexpr float LOWEST = -1.0e30f;

DEV u32 lane_row() { return (threadIdx.x & 31) / 4; }
DEV u32 lane_column() { return (threadIdx.x & 3) * 2; }
// The score of a key that is not there: its weight is 0.
DEV float nothing() { return __uint_as_float(0xff800000u); }

// Zeros in the chunk after the last of `rows` rows, where the last step reads it. Thread `worker` of `workers`.
DEV void clear_ends(u8* tile, u32 rows, u32 worker, u32 workers) {
    if (CHUNKS % 2 == 0) return;
    for (u32 r = worker; r < rows; r += workers) *(Vec<u32, 4>*)(tile + r * ROW + CHUNKS * 16) = Vec<u32, 4>{{0, 0, 0, 0}};
}

// Asks for ROWS rows of a head, `stride` elements apart; those from `count` on are zeros.
template <u32 ROWS, u32 WORKERS>
DEV void fetch_rows(u8* tile, const elem* from, u32 count, u32 stride, u32 worker) {
    constexpr u32 ALL = ROWS * CHUNKS;
#pragma unroll
    for (u32 i = 0; i < (ALL + WORKERS - 1) / WORKERS; i++) {
        const u32 at = i * WORKERS + worker, row = at / CHUNKS, chunk = at % CHUNKS;
        if (ALL % WORKERS && at >= ALL) break;
        const bool inside = row < count;
        copy_async_16(tile + row * ROW + chunk * 16, inside ? from + (u64)row * stride + chunk * 8 : from, inside);
    }
}

// The queries of a warp from row `first` of a tile on, 16 columns each step.
template <int MI> DEV void load_queries(u32 (&q)[STEPS][MI][4], const u8* tile, u32 first) {
    const u32 lane = threadIdx.x & 31;
#pragma unroll
    for (int k = 0; k < STEPS; k++)
#pragma unroll
        for (int i = 0; i < MI; i++) ldmatrix_x4(q[k][i], tile + (first + i * 16 + (lane & 15)) * ROW + (k * 2 + (lane >> 4)) * 16);
}

// s = the products of a warp's queries with 8 NK keys. NK is even.
template <int MI, int NK> DEV void multiply_keys(float (&s)[MI][NK][4], const u32 (&q)[STEPS][MI][4], const u8* keys) {
    const u32 lane = threadIdx.x & 31;
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NK; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) s[i][j][e] = 0.0f;
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        u32 b[NK][2];
#pragma unroll
        for (int j = 0; j < NK; j += 2) {
            u32 r[4];
            ldmatrix_x4(r, keys + (j * 8 + (lane & 7) + (lane >> 4) * 8) * ROW + (k * 2 + (lane >> 3 & 1)) * 16);
            b[j][0] = r[0], b[j][1] = r[1], b[j + 1][0] = r[2], b[j + 1][1] = r[3];
        }
        mma_tile<BF16>(s, q[k], b);
    }
}

// The running maximum of each row, as scores go, and this lane's part of the sum of its weights.
template <int MI> struct Softmax {
    float top[MI][2], sum[MI][2];
};

template <int MI> DEV void begin(Softmax<MI>& state, float (&o)[MI][NV][4]) {
#pragma unroll
    for (int i = 0; i < MI; i++) {
        state.top[i][0] = state.top[i][1] = LOWEST;
        state.sum[i][0] = state.sum[i][1] = 0.0f;
#pragma unroll
        for (int j = 0; j < NV; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) o[i][j][e] = 0.0f;
    }
}

// Takes scores into the running softmax: s becomes the keys' weights, relative to the new maxima, and the values so far
// follow them.
template <int MI, int NK> DEV void weigh(Softmax<MI>& state, float (&s)[MI][NK][4], float (&o)[MI][NV][4]) {
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float before = state.top[i][h];
            float top = before;
#pragma unroll
            for (int j = 0; j < NK; j++) top = fmaxf(top, fmaxf(s[i][j][2 * h], s[i][j][2 * h + 1]));
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
            const float kept = exp2_fast((before - top) * FACTOR), shift = top * FACTOR;
            float sum = state.sum[i][h] * kept;
#pragma unroll
            for (int j = 0; j < NK; j++)
#pragma unroll
                for (int e = 2 * h; e < 2 * h + 2; e++) {
                    // The first is one fused operation, whose rest after shift was rounded is in all weights alike, but as large as
                    // the scores' own rounding: masks make scores too large for that.
                    const float power = MASK ? (s[i][j][e] - top) * FACTOR : s[i][j][e] * FACTOR - shift;
                    s[i][j][e] = exp2_fast(power);
                    sum += s[i][j][e];
                }
            state.top[i][h] = top;
            state.sum[i][h] = sum;
#pragma unroll
            for (int j = 0; j < NV; j++) o[i][j][2 * h] *= kept, o[i][j][2 * h + 1] *= kept;
        }
}

// o += the weights' product with the values of 8 NK keys.
template <int MI, int NK> DEV void multiply_values(float (&o)[MI][NV][4], const float (&s)[MI][NK][4], const u8* values) {
    const u32 lane = threadIdx.x & 31;
#pragma unroll
    for (int k = 0; k < NK / 2; k++) {
        // Accumulators of two neighbouring tiles of scores are one fragment of weights.
        u32 a[MI][4], b[NV][2];
#pragma unroll
        for (int i = 0; i < MI; i++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                a[i][e] = pack<BF16>(s[i][2 * k + e / 2][e % 2 * 2], s[i][2 * k + e / 2][e % 2 * 2 + 1]);
#pragma unroll
        for (int j = 0; j < NV; j += 2) {
            u32 r[4];
            ldmatrix_x4_transposed(r, values + (k * 16 + (lane & 15)) * ROW + (j + (lane >> 4)) * 16);
            b[j][0] = r[0], b[j][1] = r[1];
            if (j + 1 < NV) b[j + 1][0] = r[2], b[j + 1][1] = r[3];
        }
        mma_tile<BF16>(o, a, b);
    }
}

// Divides by the sums of the weights and stores one row: `h` says which of the two that the lane holds in 16.
template <int MI>
DEV void store_row(elem* to, bool really, const Softmax<MI>& state, const float (&o)[MI][NV][4], int i, int h) {
    float sum = state.sum[i][h];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    const float share = quotient(1.0f, sum);
    if (!really) return;
#pragma unroll
    for (int j = 0; j < NV; j++)
        *(u32*)(to + j * 8 + lane_column()) = pack<BF16>(o[i][j][2 * h] * share, o[i][j][2 * h + 1] * share);
}
