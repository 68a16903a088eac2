// what:   the sum of one value per invocation over a workgroup of BLOCK invocations (a power of two), the same for all.

var<workgroup> partial: array<f32, BLOCK>;

fn total(value: f32, local: u32) -> f32 {
    // Protects the result of an earlier sum until everyone has read it.
    workgroupBarrier();
    partial[local] = value;
    for (var half = BLOCK / 2u; half > 0u; half /= 2u) {
        // Protects the upper half until everyone has written it.
        workgroupBarrier();
        if (local < half) {
            partial[local] += partial[local + half];
        }
    }
    // Protects the sum until invocation 0 has written it.
    workgroupBarrier();
    return partial[0];
}

