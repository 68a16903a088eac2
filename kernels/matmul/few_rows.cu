// what:   y = activation(a w^T + bias) + residual, or value * gelu(gate) + residual, of at most 16 rows
// in/out: a [items,ROWS,K], w [N|2N,K] or [items,N|2N,K], bias [N|2N] in f32, residual [items,ROWS,N] -> y [items,ROWS,N]
// launch: a line of items * ceil(pairs / WARPS) blocks of 32 WARPS; a pair is two columns, or a value and its gate;
//         ROWS K elements of dynamic shared memory
// work:   2 K flop per element of the product; w read once, 16 bytes at a time: bound by memory
// needs:  K a multiple of 8, and a in shared memory
// error:  f32 sums of K / 32 terms, then a tree; one rounding to the output's type
// idea:   each warp streams two rows of w past all rows of a, which its block has read once

struct Params {
    // Items, columns of y, length of the sums, pairs of columns and blocks along them.
    u32 items, n, k, pairs, spans;
};

constexpr u32 THREADS = 32 * WARPS;
typedef Vec<elem, 8> Octet;

KERNEL __launch_bounds__(THREADS) matmul(OPERANDS, const Params params) {
    DYNAMIC_SHARED(shared);
    Octet* rows = (Octet*)shared;
    const u32 id = linear_block(), item = id / params.spans, lane = threadIdx.x & 31, octets = params.k / 8;
    if (item >= params.items) return;

    // 1. The rows of a.
    const Octet* from = (const Octet*)(a + (u64)item * ROWS * params.k);
    for (u32 i = threadIdx.x; i < ROWS * octets; i += THREADS) rows[i] = from[i];
    // The rows are there.
    __syncthreads();
    const u32 pair = id % params.spans * WARPS + threadIdx.x / 32;
    if (pair >= params.pairs) return;
    // An odd count's last column stands in for the neighbour that it lacks.
    const u32 first = GATED ? pair : pair * 2, neighbour = first + 1 < params.n ? first + 1 : first;
    const u32 columns[2] = {first, GATED ? params.n + pair : neighbour};

    // 2. Products of two columns with all rows.
    const elem* filters = w + (BATCHED ? (u64)item * params.n * (GATED ? 2 : 1) * params.k : 0);
    float sums[ROWS][2] = {};
#pragma unroll 2
    for (u32 i = lane; i < octets; i += 32) {
        Octet own[2];
#pragma unroll
        for (int c = 0; c < 2; c++) own[c] = *(const Octet*)(filters + (u64)columns[c] * params.k + i * 8);
#pragma unroll
        for (u32 r = 0; r < ROWS; r++) {
            const Octet row = rows[r * octets + i];
#pragma unroll
            for (int c = 0; c < 2; c++)
#pragma unroll
                for (int k = 0; k < 8; k++) sums[r][c] += widen(row.v[k]) * widen(own[c].v[k]);
        }
    }
#pragma unroll
    for (u32 r = 0; r < ROWS; r++)
#pragma unroll
        for (int c = 0; c < 2; c++)
#pragma unroll
            for (int distance = 16; distance > 0; distance /= 2)
                sums[r][c] += __shfl_xor_sync(0xffffffffu, sums[r][c], distance);

    // 3. Bias, activation or gate, residual; a lane for each row.
#pragma unroll
    for (u32 r = 0; r < ROWS; r++) {
        if (lane != r) continue;
        const u32 o = (item * ROWS + r) * params.n + first;
        const float v0 = sums[r][0] + read_bias(columns[0]), v1 = sums[r][1] + read_bias(columns[1]);
        if (GATED) {
            write_y(o, v0 * gelu(v1) + read_residual(o));
        } else {
            write_y(o, activate(v0) + read_residual(o));
            if (first + 1 < params.n) write_y(o + 1, activate(v1) + read_residual(o + 1));
        }
    }
}
