// what:   y = f(a, b) element by element, for any counts
// in/out: a [count], b and c [period] repeating (or scales [n]) -> y [count]; each in its own element type
// launch: a line of ceil(count / BLOCK) workgroups of BLOCK; no shared memory
// work:   1-2 flop and the activation's per element; each operand read once (b from cache where it repeats), y written once
// needs:  nothing
// error:  f32 arithmetic, one rounding to the output's type
// idea:   one invocation per element; KIND chooses the function when the kernel is compiled

struct Params {
    count: u32,
    // Index of the launch's first element in b, and b's count.
    phase: u32,
    period: u32,
    // First elements in the bindings.
    first_a: u32,
    first_b: u32,
    first_y: u32,
    // Factor or lower limit, upper limit, index into scales.
    low: f32,
    high: f32,
    index: u32,
}

fn apply(a: f32, i: u32) -> f32 {
    switch KIND {
        case 0u: { return a + params.low * read_b(params.first_b + (params.phase + i) % params.period); }
        case 1u: { return a * read_b(params.first_b + (params.phase + i) % params.period); }
        case 2u: { return params.low * a; }
        case 3u: { return a * read_b(params.index); }
        case 4u: { return activate(a); }
        case 5u: { return clamp(a, params.low, params.high); }
        case 7u: {
            let j = params.first_b + (params.phase + i) % params.period;
            return a * read_b(j) + read_c(j);
        }
        case 8u: {
            return max(a, 0.0) + min(a, 0.0) * read_b(params.first_b + (params.phase + i) % params.period);
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
    write_y(params.first_y + i, apply(read_a(params.first_a + i), i));
}
