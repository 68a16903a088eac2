// what:   y = f(a, b) element by element, four at a time
// in/out: a [count], b and c [period] repeating (or scales [n]) -> y [count]; each in its own element type, counts in vectors of four
// launch: a line of ceil(count / BLOCK) workgroups of BLOCK; no shared memory
// work:   1-2 flop and the activation's per element; each operand read once (b from cache where it repeats), y written once
// needs:  all counts, and the first elements of all parts, multiples of four
// error:  f32 arithmetic, one rounding to the output's type
// idea:   as simple, with loads and stores of 8 or 16 bytes per invocation

// Counts and indices are in vectors of four, except the index into scales.
struct Params {
    count: u32,
    // Index of the launch's first vector in b, and b's count.
    phase: u32,
    period: u32,
    // First vectors in the bindings.
    first_a: u32,
    first_b: u32,
    first_y: u32,
    // Factor or lower limit, upper limit, index into scales.
    low: f32,
    high: f32,
    index: u32,
}

fn apply(a: vec4<f32>, i: u32) -> vec4<f32> {
    switch KIND {
        case 0u: { return a + params.low * read4_b(params.first_b + (params.phase + i) % params.period); }
        case 1u: { return a * read4_b(params.first_b + (params.phase + i) % params.period); }
        case 2u: { return params.low * a; }
        case 3u: { return a * read_b(params.index); }
        case 4u: { return activate4(a); }
        case 5u: { return clamp(a, vec4<f32>(params.low), vec4<f32>(params.high)); }
        case 7u: {
            let j = params.first_b + (params.phase + i) % params.period;
            return a * read4_b(j) + read4_c(j);
        }
        case 8u: {
            let b = read4_b(params.first_b + (params.phase + i) % params.period);
            return max(a, vec4<f32>()) + min(a, vec4<f32>()) * b;
        }
        default: { return a; }
    }
}

@compute @workgroup_size(BLOCK)
fn elementwise(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = linear_group(group, groups) * BLOCK + local;
    if (i >= params.count) { return; }
    write4_y(params.first_y + i, apply(read4_a(params.first_a + i), i));
}
