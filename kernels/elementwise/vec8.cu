// what:   y = f(a, b) element by element, eight at a time
// in/out: a [count], b and c [period] repeating (or b: scales [n]) -> y [count]; each in its own element type
// launch: a line of ceil(octets / BLOCK) blocks of BLOCK; no shared memory
// work:   1-2 flop and the activation's per element; each operand read once (b from cache where it repeats), y written once,
//         in vectors of eight: 16 bytes at a time of 16-bit elements
// needs:  count and period multiples of 8
// error:  f32 arithmetic, one rounding to the output's type
// idea:   as simple, with one thread per eight elements

struct Params {
    // Vectors of eight in y, and in b and c.
    u32 octets, period;
    // Factor or lower limit, upper limit, index into scales.
    float low, high;
    u32 index;
};

KERNEL __launch_bounds__(BLOCK) elementwise(OPERANDS, const Params params) {
    const u32 i = linear_block() * BLOCK + threadIdx.x;
    if (i >= params.octets) return;
    const Vec<a_elem, 8> in = *(const Vec<a_elem, 8>*)(a + (u64)i * 8);
    Vec<b_elem, 8> other = {};
    Vec<c_elem, 8> third = {};
    const u64 at = (u64)(i % params.period) * 8;
    if (KIND < 2 || KIND >= 7) other = *(const Vec<b_elem, 8>*)(b + at);
    if (KIND == 7) third = *(const Vec<c_elem, 8>*)(c + at);
    const float factor = KIND == 3 ? widen(b[params.index]) : params.low;
    Vec<elem, 8> out;
#pragma unroll
    for (int k = 0; k < 8; k++) {
        float v = widen(in.v[k]);
        switch (KIND) {
            case 0: v += params.low * widen(other.v[k]); break;
            case 1: v *= widen(other.v[k]); break;
            case 2:
            case 3: v *= factor; break;
            case 4: v = activate(v); break;
            case 5: v = fminf(fmaxf(v, params.low), params.high); break;
            case 7: v = v * widen(other.v[k]) + widen(third.v[k]); break;
            case 8: v = fmaxf(v, 0.0f) + fminf(v, 0.0f) * widen(other.v[k]); break;
        }
        out.v[k] = narrow<elem>(v);
    }
    *(Vec<elem, 8>*)(y + (u64)i * 8) = out;
}
