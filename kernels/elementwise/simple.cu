// what:   y = f(a, b) element by element, for any counts
// in/out: a [count], b and c [period] repeating (or scales [n]) -> y [count]; each in its own element type
// launch: a line of ceil(count / BLOCK) blocks of BLOCK; no shared memory
// work:   1-2 flop and the activation's per element; each operand read once (b from cache where it repeats), y written once
// needs:  nothing
// error:  f32 arithmetic, one rounding to the output's type
// idea:   one thread per element; KIND chooses the function when the kernel is compiled

struct Params {
    u32 count;
    // Index of the launch's first element in b, and b's count.
    u32 phase, period;
    // First elements in the operands.
    u32 first_a, first_b, first_y;
    // Factor or lower limit, upper limit, index into scales.
    float low, high;
    u32 index;
};

KERNEL __launch_bounds__(BLOCK) elementwise(OPERANDS, const Params params) {
    u32 i = linear_block() * BLOCK + threadIdx.x;
    if (i >= params.count) return;
    float v = read_a(params.first_a + i);
    switch (KIND) {
        case 0: v += params.low * read_b(params.first_b + (params.phase + i) % params.period); break;
        case 1: v *= read_b(params.first_b + (params.phase + i) % params.period); break;
        case 2: v *= params.low; break;
        case 3: v *= read_b(params.index); break;
        case 4: v = activate(v); break;
        case 5: v = fminf(fmaxf(v, params.low), params.high); break;
        case 7: {
            u32 j = params.first_b + (params.phase + i) % params.period;
            v = v * read_b(j) + read_c(j);
            break;
        }
        case 8: v = fmaxf(v, 0.0f) + fminf(v, 0.0f) * read_b(params.first_b + (params.phase + i) % params.period); break;
    }
    write_y(params.first_y + i, v);
}
