// what:   where the operands of a 3-D convolution lie: what all variants of conv3d share

struct Params {
    // Output cells of this launch.
    cells: u32,
    c: u32,
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
    // Zeros before the first cell.
    before_frames: u32,
    before_height: u32,
    before_width: u32,
    // First elements in the bindings.
    first_x: u32,
    first_y: u32,
}

// An output cell's item, and the cell of x under its first tap; before the clip it wraps to large numbers.
struct Cell {
    item: u32,
    t: u32,
    y: u32,
    x: u32,
}

fn cell(i: u32) -> Cell {
    let line = i / params.out_width;
    let map = line / params.out_height;
    return Cell(
        map / params.out_frames,
        map % params.out_frames * params.stride_frames - params.before_frames,
        line % params.out_height * params.stride_height - params.before_height,
        i % params.out_width * params.stride_width - params.before_width,
    );
}

// First element of the cell that a tap reads; NOWHERE in the padding.
const NOWHERE = 0xffffffffu;

fn source(p: Cell, tap: u32) -> u32 {
    let t = p.t + tap / (KERNEL_WIDTH * KERNEL_HEIGHT);
    let y = p.y + tap / KERNEL_WIDTH % KERNEL_HEIGHT;
    let x = p.x + tap % KERNEL_WIDTH;
    if (t >= params.frames || y >= params.height || x >= params.width) { return NOWHERE; }
    return params.first_x + (((p.item * params.frames + t) * params.height + y) * params.width + x) * params.c;
}
