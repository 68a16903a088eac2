// what:   the maximum or the mean of each window of a clip (a map is a clip of one frame)
// in/out: x [items, frames, height, width, channels] -> y [items, out_frames, out_height, out_width, channels]
// launch: a line of ceil(count / BLOCK) workgroups of BLOCK; no shared memory
// work:   the cells of a window per element; x from cache where windows overlap, y once
// needs:  extents below 2^20
// error:  a maximum is exact; f32 sums cell by cell, one rounding to the output's type
// idea:   one invocation per element of y, neighbours along the channels; the window is cut to the cells before it is walked

struct Params {
    count: u32,
    channels: u32,
    frames: u32,
    height: u32,
    width: u32,
    out_frames: u32,
    out_height: u32,
    out_width: u32,
    stride_frames: u32,
    stride_height: u32,
    stride_width: u32,
    // Padding before the first cell.
    before_frames: u32,
    before_height: u32,
    before_width: u32,
    // Where the padding after the last cell ends, counted from the first cell.
    end_frames: u32,
    end_height: u32,
    end_width: u32,
    // First elements in the bindings.
    first_x: u32,
    first_y: u32,
}

// First cell, one past the last, and the number of cells with padding.
struct Window {
    first: u32,
    end: u32,
    padded: u32,
}

fn window(o: u32, kernel: u32, stride: u32, before: u32, cells: u32, padded_end: u32) -> Window {
    let start = i32(o * stride) - i32(before);
    let end = min(start + i32(kernel), i32(padded_end));
    return Window(u32(max(start, 0)), u32(clamp(end, 0, i32(cells))), u32(end - start));
}

@compute @workgroup_size(BLOCK)
fn pool(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = linear_group(group, groups) * BLOCK + local;
    if (i >= params.count) { return; }
    let channel = i % params.channels;
    var cell = i / params.channels;
    let column = cell % params.out_width;
    cell /= params.out_width;
    let row = cell % params.out_height;
    cell /= params.out_height;
    let frame = cell % params.out_frames;
    let item = cell / params.out_frames;
    let p = params;
    let f = window(frame, KERNEL_FRAMES, p.stride_frames, p.before_frames, p.frames, p.end_frames);
    let h = window(row, KERNEL_HEIGHT, p.stride_height, p.before_height, p.height, p.end_height);
    let w = window(column, KERNEL_WIDTH, p.stride_width, p.before_width, p.width, p.end_width);
    var most = -3.4e38;
    var sum = 0.0;
    for (var t = f.first; t < f.end; t++) {
        for (var y = h.first; y < h.end; y++) {
            let line = ((item * p.frames + t) * p.height + y) * p.width;
            for (var x = w.first; x < w.end; x++) {
                let v = read_x(p.first_x + (line + x) * p.channels + channel);
                most = max(most, v);
                sum += v;
            }
        }
    }
    var result = most;
    if (KIND == 1u) { result = sum / f32(f.padded * h.padded * w.padded); }
    if (KIND == 2u) { result = sum / f32((f.end - f.first) * (h.end - h.first) * (w.end - w.first)); }
    write_y(p.first_y + i, result);
}
