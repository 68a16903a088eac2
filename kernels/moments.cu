#line 2 "kernels/moments.cu"
// Moments of the columns of a block's tile, taken from the registers that hold it: what a norm of the result would otherwise
// read all of it for.
//
// Over kernels/tile.cu or kernels/warpgroup.cu, whose words it uses. Each warp takes mean and squared distances of its rows in
// two sweeps over registers, so that nothing cancels; warps are combined after Chan in the order of their rows, so that
// results repeat to the bit.

// Warps that share the rows of a column, and rows of each.
constexpr u32 ROW_WARP = MI * 16, ROW_WARPS = TILE_M / ROW_WARP;

// Sum over the eight lanes that hold one column.
DEV float column_total(float v) {
#pragma unroll
    for (int distance = 4; distance < 32; distance *= 2) v += __shfl_xor_sync(0xffffffffu, v, distance);
    return v;
}

// `write(column, mean, squares)` of each column of the tile's first `rows` rows (one at least), by the threads whose
// `multiply` was true. `shared` has room for 8 ROW_WARPS TILE_N bytes, and what it holds is lost.
template <class Write> DEV void column_moments(const float (&values)[MI][NI][4], u8* shared, u32 rows, Write write) {
    float* parts = (float*)shared;
    const u32 first = warp_row(), left = rows > first ? rows - first : 0, count = left < ROW_WARP ? left : ROW_WARP;
    // All have done with what lies in shared memory.
    __syncthreads();
#pragma unroll
    for (int j = 0; j < NI; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float sum = 0.0f, squares = 0.0f;
#pragma unroll
            for (int q = 0; q < 2 * MI; q++)
                if (q * 8 + lane_row() < count) sum += values[q / 2][j][q % 2 * 2 + e];
            const float mean = quotient(column_total(sum), count > 0 ? (float)count : 1.0f);
#pragma unroll
            for (int q = 0; q < 2 * MI; q++) {
                const float d = values[q / 2][j][q % 2 * 2 + e] - mean;
                if (q * 8 + lane_row() < count) squares += d * d;
            }
            squares = column_total(squares);
            const u32 at = (first / ROW_WARP * TILE_N + warp_column() + j * 8 + lane_column() + e) * 2;
            if (lane_row() == 0) parts[at] = mean, parts[at + 1] = squares;
        }
    // The warps' moments are there.
    __syncthreads();
    for (u32 column = worker(); column < TILE_N; column += WORKERS) {
        float mean = parts[column * 2], squares = parts[column * 2 + 1];
        u32 before = rows < ROW_WARP ? rows : ROW_WARP;
        for (u32 warp = 1; warp < ROW_WARPS && before < rows; warp++) {
            const u32 own = rows - before < ROW_WARP ? rows - before : ROW_WARP;
            const float part = quotient((float)own, (float)(before + own));
            const float d = parts[(warp * TILE_N + column) * 2] - mean;
            mean += d * part;
            squares += parts[(warp * TILE_N + column) * 2 + 1] + d * d * (float)before * part;
            before += own;
        }
        write(column, mean, squares);
    }
}

