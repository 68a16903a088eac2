// what:   y = activation(conv(resize(concat(x, x2)), w) + bias + shift) + residual, for any extents
// in/out: x [B,H,W,C1], x2 [B,H,W,C2], w [Cout,KH,KW,C1+C2], bias [Cout], shift [B,T], residual [B,Ho,Wo,Cout] -> y like it
// launch: a line of ceil(count / BLOCK) workgroups of BLOCK; no shared memory
// work:   2 KH KW (C1 + C2) flop per element of y; every element reads its taps and its filter again (from cache)
// needs:  nothing
// error:  f32 sums in the order of the filter, one rounding to the output's type
// idea:   one invocation per element of y: the formula, and a check for the others

struct Params {
    // Items and output rows of this launch: the first one, and how many.
    item: u32,
    items: u32,
    row: u32,
    rows: u32,
    // Extents of y.
    height: u32,
    width: u32,
    channels: u32,
    // Extents of the sources as stored, and as the kernel slides over them.
    source_height: u32,
    source_width: u32,
    input_height: u32,
    input_width: u32,
    c1: u32,
    c2: u32,
    // First column of the shift, and length of its rows.
    shift_column: u32,
    shift_stride: u32,
    // What is added to an index of a whole operand to give its place in the binding, modulo 2^32.
    at_x: u32,
    at_x2: u32,
    at_residual: u32,
    at_y: u32,
}

// Products of one tap with one filter's weights from index `w` on.
fn tap(pixel: u32, w: u32) -> f32 {
    var sum = 0.0;
    for (var c = 0u; c < params.c1; c++) {
        sum += read_x(params.at_x + pixel * params.c1 + c) * read_w(w + c);
    }
    for (var c = 0u; c < params.c2; c++) {
        sum += read_x2(params.at_x2 + pixel * params.c2 + c) * read_w(w + params.c1 + c);
    }
    return sum;
}

@compute @workgroup_size(BLOCK)
fn conv2d(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = linear_group(group, groups) * BLOCK + local;
    if (i >= params.items * params.rows * params.width * params.channels) { return; }
    let n = i % params.channels;
    let ox = i / params.channels % params.width;
    let oy = params.row + i / params.channels / params.width % params.rows;
    let item = params.item + i / params.channels / params.width / params.rows;

    // 1. Taps that do not lie in the padding. Those left of or above the map wrap to large numbers.
    let c = params.c1 + params.c2;
    var sum = 0.0;
    for (var ky = 0u; ky < KERNEL_HEIGHT; ky++) {
        let y = oy * STRIDE + ky - PAD_TOP;
        if (y >= params.input_height) { continue; }
        let sy = select(y, y * params.source_height / params.input_height, RESIZED);
        for (var kx = 0u; kx < KERNEL_WIDTH; kx++) {
            let x = ox * STRIDE + kx - PAD_LEFT;
            if (x >= params.input_width) { continue; }
            let sx = select(x, x * params.source_width / params.input_width, RESIZED);
            let pixel = (item * params.source_height + sy) * params.source_width + sx;
            sum += tap(pixel, ((n * KERNEL_HEIGHT + ky) * KERNEL_WIDTH + kx) * c);
        }
    }

    // 2. Bias, shift, activation, residual.
    sum += read_bias(n) + read_shift(item * params.shift_stride + params.shift_column + n);
    let o = ((item * params.height + oy) * params.width + ox) * params.channels + n;
    write_y(params.at_y + o, activate(sum) + read_residual(params.at_residual + o));
}
