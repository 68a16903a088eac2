// what:   a map resized: nearest, bilinear, or the mean of the cells that an output cell covers
// in/out: x [items, height, width, channels] -> y [items, out_height, out_width, channels]
// launch: a line of ceil(count / BLOCK) blocks of BLOCK; no shared memory
// work:   0 (nearest), 8 (bilinear) or the covered cells (mean) flop per element; x from cache where cells overlap, y once
// needs:  extents below 2^15
// error:  source positions are exact fractions of integers; f32 sums, first along a row and then over rows
// idea:   one thread per element of y, neighbours along the channels; MODE chooses the taps when the kernel is compiled

struct Params {
    u32 count;
    // Extents of whole maps.
    u32 height, width, out_height, out_width, channels;
    // Of the launch: first row of x in the operand, first row of y, and rows of y.
    u32 first_row, out_first_row, out_rows;
    // First elements in the operands.
    u32 first_x, first_y;
};

// Two source cells along one axis, and the part of the second.
struct Taps {
    u32 low, high;
    float part;
};

// The centre of output cell i lies at ((2i + 1) * size - out) / (2 * out) in the source, at 0 at least.
DEV Taps taps(u32 i, u32 size, u32 out) {
    int centre = (int)((2 * i + 1) * size) - (int)out;
    u32 n = centre > 0 ? centre : 0, low = n / (2 * out);
    if (low > size - 1) low = size - 1;
    u32 high = low + 1 < size ? low + 1 : size - 1;
    return Taps{low, high, (float)(n - low * 2 * out) / (float)(2 * out)};
}

DEV float mix(float a, float b, float part) { return a * (1.0f - part) + b * part; }

KERNEL __launch_bounds__(BLOCK) resample(OPERANDS, const Params params) {
    u32 i = linear_block() * BLOCK + threadIdx.x;
    if (i >= params.count) return;
    u32 channel = i % params.channels, column = i / params.channels % params.out_width;
    u32 line = i / params.channels / params.out_width;
    u32 row = params.out_first_row + line % params.out_rows, item = line / params.out_rows;
    auto source = [&](u32 r, u32 c) -> float {
        u32 at = item * params.height + r - params.first_row;
        return read_x(params.first_x + (at * params.width + c) * params.channels + channel);
    };
    float v = 0.0f;
    if (MODE == 0) {
        v = source(row * params.height / params.out_height, column * params.width / params.out_width);
    } else if (MODE == 1) {
        Taps r = taps(row, params.height, params.out_height), c = taps(column, params.width, params.out_width);
        float upper = mix(source(r.low, c.low), source(r.low, c.high), c.part);
        float lower = mix(source(r.high, c.low), source(r.high, c.high), c.part);
        v = mix(upper, lower, r.part);
    } else {
        u32 top = row * params.height / params.out_height;
        u32 bottom = ((row + 1) * params.height + params.out_height - 1) / params.out_height;
        u32 left = column * params.width / params.out_width;
        u32 right = ((column + 1) * params.width + params.out_width - 1) / params.out_width;
        for (u32 r = top; r < bottom; r++) {
            float of_row = 0.0f;
            for (u32 c = left; c < right; c++) of_row += source(r, c);
            v += of_row;
        }
        v /= (float)((bottom - top) * (right - left));
    }
    write_y(params.first_y + i, v);
}
