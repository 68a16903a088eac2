// what:   a permutation of axes, or channels put together, cut out or reversed
// in/out: x (and x2) of any shape -> y [.., e1, e2, e3], all in one element type
// launch: a line of ceil(count / BLOCK) blocks of BLOCK; no shared memory
// work:   no flop; each element that is wanted read once, y written once
// needs:  nothing
// error:  none
// idea:   one thread per element of y finds its source by strides; columns from `split` on come from x2 instead

struct Params {
    u32 count;
    // Inner extents of y.
    u32 e1, e2, e3;
    // Index in x of the first element, and steps along the axes of y; columns backwards have a negative one.
    int base, s0, s1, s2, s3;
    // First column of x2, and columns of x2.
    u32 split, width2;
    // First elements in the operands.
    u32 first_x2, first_y;
};

KERNEL __launch_bounds__(BLOCK) layout_copy(OPERANDS, const Params params) {
    u32 i = linear_block() * BLOCK + threadIdx.x;
    if (i >= params.count) return;
    u32 row = i / params.e3, column = i % params.e3;
    if (column >= params.split) {
        write_y(params.first_y + i, read_x2(params.first_x2 + row * params.width2 + column - params.split));
        return;
    }
    int i2 = row % params.e2, i1 = row / params.e2 % params.e1, i0 = row / params.e2 / params.e1;
    int source = params.base + i0 * params.s0 + i1 * params.s1 + i2 * params.s2 + (int)column * params.s3;
    write_y(params.first_y + i, read_x((u32)source));
}
