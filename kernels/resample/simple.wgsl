// what:   a map resized: nearest, bilinear, or the mean of the cells that an output cell covers
// in/out: x [items, height, width, channels] -> y [items, out_height, out_width, channels]
// launch: a line of ceil(count / BLOCK) workgroups of BLOCK; no shared memory
// work:   0 (nearest), 8 (bilinear) or the covered cells (mean) flop per element; x from cache where cells overlap, y once
// needs:  extents below 2^15
// error:  source positions are exact fractions of integers; f32 sums, first along a row and then over rows
// idea:   one invocation per element of y, neighbours along the channels; MODE chooses the taps when the kernel is compiled

struct Params {
    count: u32,
    // Extents of whole maps.
    height: u32,
    width: u32,
    out_height: u32,
    out_width: u32,
    channels: u32,
    // Of the launch: first row of x in the binding, first row of y, and rows of y.
    first_row: u32,
    out_first_row: u32,
    out_rows: u32,
    // First elements in the bindings.
    first_x: u32,
    first_y: u32,
}

// Two source cells along one axis, and the part of the second.
struct Taps {
    low: u32,
    high: u32,
    part: f32,
}

// The centre of output cell i lies at ((2i + 1) * size - out) / (2 * out) in the source, at 0 at least.
fn taps(i: u32, size: u32, out: u32) -> Taps {
    let n = u32(max(i32((2u * i + 1u) * size) - i32(out), 0));
    let low = min(n / (2u * out), size - 1u);
    return Taps(low, min(low + 1u, size - 1u), f32(n - low * 2u * out) / f32(2u * out));
}

fn source(item: u32, row: u32, column: u32, channel: u32) -> f32 {
    let line = item * params.height + row - params.first_row;
    return read_x(params.first_x + (line * params.width + column) * params.channels + channel);
}

fn bilinear(item: u32, row: u32, column: u32, channel: u32) -> f32 {
    let r = taps(row, params.height, params.out_height);
    let c = taps(column, params.width, params.out_width);
    let upper = mix(source(item, r.low, c.low, channel), source(item, r.low, c.high, channel), c.part);
    let lower = mix(source(item, r.high, c.low, channel), source(item, r.high, c.high, channel), c.part);
    return mix(upper, lower, r.part);
}

fn mean(item: u32, row: u32, column: u32, channel: u32) -> f32 {
    let top = row * params.height / params.out_height;
    let bottom = ((row + 1u) * params.height + params.out_height - 1u) / params.out_height;
    let left = column * params.width / params.out_width;
    let right = ((column + 1u) * params.width + params.out_width - 1u) / params.out_width;
    var sum = 0.0;
    for (var r = top; r < bottom; r++) {
        var of_row = 0.0;
        for (var c = left; c < right; c++) {
            of_row += source(item, r, c, channel);
        }
        sum += of_row;
    }
    return sum / f32((bottom - top) * (right - left));
}

@compute @workgroup_size(BLOCK)
fn resample(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = linear_group(group, groups) * BLOCK + local;
    if (i >= params.count) { return; }
    let channel = i % params.channels;
    let column = i / params.channels % params.out_width;
    let line = i / params.channels / params.out_width;
    let row = params.out_first_row + line % params.out_rows;
    let item = line / params.out_rows;
    var v = 0.0;
    switch MODE {
        case 0u: {
            let r = row * params.height / params.out_height;
            v = source(item, r, column * params.width / params.out_width, channel);
        }
        case 1u: { v = bilinear(item, row, column, channel); }
        default: { v = mean(item, row, column, channel); }
    }
    write_y(params.first_y + i, v);
}
