// what:   layer norm of rows of any length: one thread per row
// in/out: x [rows, columns], weight [columns] and bias [frames, columns] in f32 -> y [rows, columns]
// launch: a line of ceil(rows / ROWS) blocks of BLOCK = ROWS; no shared memory
// work:   8 flop per element; x read three times (twice from cache), y written once
// needs:  nothing
// error:  f32 sums of one row about 0 and about the mean, one rounding to the output's type
// idea:   the formula as it stands, and a check for the other variants

struct Params {
    u32 rows, columns;
    // First elements in the operands.
    u32 first_x, first_y;
    // The first row's number, rows in a frame, and rows of the bias: a frame of a clip has its own.
    u32 first_row, positions, frames;
};

KERNEL __launch_bounds__(BLOCK) layer_norm(OPERANDS, const Params params) {
    u32 row = linear_block() * ROWS + threadIdx.x;
    if (row >= params.rows) return;
    u32 first = row * params.columns;
    u32 bias_row = (params.first_row + row) / params.positions % params.frames * params.columns;

    // 1. Mean.
    float sum = 0.0f;
    for (u32 i = 0; i < params.columns; i++) sum += read_x(params.first_x + first + i);
    float mean = sum / params.columns;

    // 2. Variance about the mean.
    float squares = 0.0f;
    for (u32 i = 0; i < params.columns; i++) {
        float d = read_x(params.first_x + first + i) - mean;
        squares += d * d;
    }
    float scale = rsqrtf(squares / params.columns + EPS);

    // 3. Result.
    for (u32 i = 0; i < params.columns; i++) {
        float v = (read_x(params.first_x + first + i) - mean) * scale;
        write_y(params.first_y + first + i, v * read_weight(i) + read_bias(bias_row + i));
    }
}
