// what:   layer norm of rows of whole vectors of eight: one warp per row, kept in registers
// in/out: x [rows, COLUMNS], weight [COLUMNS], bias [frames, COLUMNS] in f32 -> y [rows, COLUMNS]
// launch: a line of ceil(rows / ROWS) blocks of 32 ROWS; no shared memory
// work:   8 flop per element; x read once, y written once, 16 bytes at a time
// needs:  COLUMNS a multiple of 8, at most 2048
// error:  f32 sums of COLUMNS / 32 terms about 0 and about the mean, then a tree; one rounding to the output's type
// idea:   as warp, with a row read once: each lane keeps every 32nd vector of eight

struct Params {
    // Rows, those of a frame, and rows of the bias: a frame of a clip has its own.
    u32 rows, positions, frames;
};

constexpr u32 OCTETS = COLUMNS / 8, ROUNDS = (OCTETS + 31) / 32;
typedef Vec<elem, 8> Octet;

// Sum of one value per lane, the same for all.
DEV float total(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

// As many blocks as leave a lane registers for its part of the row.
constexpr int BLOCKS = ROUNDS > 6 ? 2 : ROUNDS > 4 ? 3 : 4;

KERNEL __launch_bounds__(32 * ROWS, BLOCKS) layer_norm(OPERANDS, const Params params) {
    const u32 row = linear_block() * ROWS + threadIdx.x / 32, lane = threadIdx.x & 31;
    // A warp has one row, so all of its lanes leave or stay.
    if (row >= params.rows) return;
    const u64 first = (u64)row * COLUMNS;
    const float* own_bias = bias + row / params.positions % params.frames * COLUMNS;

    // 1. The row, and its mean.
    float v[ROUNDS][8], sum = 0.0f;
#pragma unroll
    for (u32 i = 0; i < ROUNDS; i++) {
        const u32 at = i * 32 + lane;
        const Octet octet = at < OCTETS ? *(const Octet*)(x + first + at * 8) : Octet{};
#pragma unroll
        for (int k = 0; k < 8; k++) v[i][k] = widen(octet.v[k]), sum += v[i][k];
    }
    const float mean = quotient(total(sum), COLUMNS);

    // 2. Variance about the mean.
    float squares = 0.0f;
#pragma unroll
    for (u32 i = 0; i < ROUNDS; i++)
#pragma unroll
        for (int k = 0; k < 8; k++) {
            const float d = v[i][k] - mean;
            squares += i * 32 + lane < OCTETS ? d * d : 0.0f;
        }
    const float scale = rsqrtf(quotient(total(squares), COLUMNS) + EPS);

    // 3. Result.
#pragma unroll
    for (u32 i = 0; i < ROUNDS; i++) {
        const u32 at = i * 32 + lane;
        if (at >= OCTETS) break;
        const Vec<float, 8> w = *(const Vec<float, 8>*)(weight + at * 8), b = *(const Vec<float, 8>*)(own_bias + at * 8);
        Octet octet;
#pragma unroll
        for (int k = 0; k < 8; k++) octet.v[k] = narrow<elem>((v[i][k] - mean) * scale * w.v[k] + b.v[k]);
        *(Octet*)(y + first + at * 8) = octet;
    }
}
