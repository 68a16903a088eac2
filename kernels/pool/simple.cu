// what:   the maximum or the mean of each window of a clip (a map is a clip of one frame)
// in/out: x [items, frames, height, width, channels] -> y [items, out_frames, out_height, out_width, channels]
// launch: a line of ceil(count / BLOCK) blocks of BLOCK; no shared memory
// work:   the cells of a window per element; x from cache where windows overlap, y once
// needs:  extents below 2^20
// error:  a maximum is exact; f32 sums cell by cell, one rounding to the output's type
// idea:   one thread per element of y, neighbours along the channels; the window is cut to the cells before it is walked

struct Params {
    u32 count, channels;
    u32 frames, height, width, out_frames, out_height, out_width;
    u32 stride_frames, stride_height, stride_width;
    // Padding before the first cell, and where that after the last one ends, counted from the first cell.
    u32 before_frames, before_height, before_width, end_frames, end_height, end_width;
    // First elements in the operands.
    u32 first_x, first_y;
};

// First cell, one past the last, and the number of cells with padding.
struct Window {
    u32 first, end, padded;
};

DEV Window window(u32 o, u32 kernel, u32 stride, u32 before, u32 cells, u32 padded_end) {
    int start = (int)(o * stride) - (int)before, end = start + (int)kernel;
    if (end > (int)padded_end) end = (int)padded_end;
    int last = end < 0 ? 0 : end > (int)cells ? (int)cells : end;
    return Window{(u32)(start > 0 ? start : 0), (u32)last, (u32)(end - start)};
}

KERNEL __launch_bounds__(BLOCK) pool(OPERANDS, const Params params) {
    u32 i = linear_block() * BLOCK + threadIdx.x;
    if (i >= params.count) return;
    u32 channel = i % params.channels, cell = i / params.channels;
    u32 column = cell % params.out_width, line = cell / params.out_width;
    u32 row = line % params.out_height, map = line / params.out_height;
    u32 frame = map % params.out_frames, item = map / params.out_frames;
    const Params& p = params;
    Window f = window(frame, KERNEL_FRAMES, p.stride_frames, p.before_frames, p.frames, p.end_frames);
    Window h = window(row, KERNEL_HEIGHT, p.stride_height, p.before_height, p.height, p.end_height);
    Window w = window(column, KERNEL_WIDTH, p.stride_width, p.before_width, p.width, p.end_width);
    float most = -3.4e38f, sum = 0.0f;
    for (u32 t = f.first; t < f.end; t++) {
        for (u32 y_at = h.first; y_at < h.end; y_at++) {
            u32 first = ((item * p.frames + t) * p.height + y_at) * p.width;
            for (u32 x_at = w.first; x_at < w.end; x_at++) {
                float v = read_x(p.first_x + (first + x_at) * p.channels + channel);
                most = fmaxf(most, v);
                sum += v;
            }
        }
    }
    float result = most;
    if (KIND == 1) result = sum / (float)(f.padded * h.padded * w.padded);
    if (KIND == 2) result = sum / (float)((f.end - f.first) * (h.end - h.first) * (w.end - w.first));
    write_y(p.first_y + i, result);
}
