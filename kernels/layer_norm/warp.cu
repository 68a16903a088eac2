// what:   layer norm of rows of any length: one warp per row
// in/out: x [rows, columns], weight [columns] and bias [frames, columns] in f32 -> y [rows, columns]
// launch: a line of ceil(rows / ROWS) blocks of BLOCK = 32 ROWS; no shared memory
// work:   8 flop per element; x read once from memory and twice from cache, y written once
// needs:  nothing
// error:  f32 sums of columns / 32 terms about 0 and about the mean, then a tree; one rounding to the output's type
// idea:   a row's lanes are neighbours, so loads are whole lines; sums go through the registers of the warp

struct Params {
    u32 rows, columns;
    // First elements in the operands.
    u32 first_x, first_y;
    // The first row's number, rows in a frame, and rows of the bias: a frame of a clip has its own.
    u32 first_row, positions, frames;
};

// Sum of one value per lane, the same for all.
DEV float total(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

KERNEL __launch_bounds__(BLOCK) layer_norm(OPERANDS, const Params params) {
    const u32 row = linear_block() * ROWS + threadIdx.x / 32, lane = threadIdx.x & 31, columns = params.columns;
    // A warp has one row, so all of its lanes leave or stay.
    if (row >= params.rows) return;
    const u32 from = params.first_x + row * columns;
    const u32 bias_row = (params.first_row + row) / params.positions % params.frames * columns;

    // 1. Mean.
    float sum = 0.0f;
    for (u32 c = lane; c < columns; c += 32) sum += read_x(from + c);
    const float mean = quotient(total(sum), columns);

    // 2. Variance about the mean.
    float squares = 0.0f;
    for (u32 c = lane; c < columns; c += 32) {
        float d = read_x(from + c) - mean;
        squares += d * d;
    }
    const float scale = rsqrtf(quotient(total(squares), columns) + EPS);

    // 3. Result.
    for (u32 c = lane; c < columns; c += 32) {
        float v = (read_x(from + c) - mean) * scale;
        write_y(params.first_y + row * columns + c, v * read_weight(c) + read_bias(bias_row + c));
    }
}
