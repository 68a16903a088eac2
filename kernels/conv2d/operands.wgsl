// what:   where the operands of a convolution lie: what all variants of conv2d share

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

// Place of an output pixel: batch item, row, column.
struct Pixel {
    item: u32,
    y: u32,
    x: u32,
}

// Output pixel of number i in this launch.
fn pixel(i: u32) -> Pixel {
    let row = i / params.width;
    return Pixel(params.item + row / params.rows, params.row + row % params.rows, i % params.width);
}

// Number, among all pixels of the sources, of the one that tap (ky, kx) of an output pixel reads; NOWHERE in the padding.
const NOWHERE = 0xffffffffu;

fn source(p: Pixel, ky: u32, kx: u32) -> u32 {
    // Rows above and columns left of the map wrap to large numbers.
    var y = p.y * STRIDE + ky - PAD_TOP;
    var x = p.x * STRIDE + kx - PAD_LEFT;
    if (y >= params.input_height || x >= params.input_width) { return NOWHERE; }
    if (RESIZED) {
        y = y * params.source_height / params.input_height;
        x = x * params.source_width / params.input_width;
    }
    return (p.item * params.source_height + y) * params.source_width + x;
}

// Adds bias and shift to channel n of an output pixel, activates, adds the residual, and stores it.
fn finish(p: Pixel, n: u32, sum: f32) {
    let shift = read_shift(p.item * params.shift_stride + params.shift_column + n);
    let o = ((p.item * params.height + p.y) * params.width + p.x) * params.channels + n;
    write_y(params.at_y + o, activate(sum + read_bias(n) + shift) + read_residual(params.at_residual + o));
}
