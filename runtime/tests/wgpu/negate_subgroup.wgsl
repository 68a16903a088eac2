@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn negate(@builtin(global_invocation_id) id: vec3u, @builtin(subgroup_invocation_id) lane: u32) {
    let own = x[min(id.x, COUNT - 1u)];
    let shuffled = subgroupShuffle(own, lane);
    if (id.x < COUNT) {
        out[id.x] = -shuffled;
    }
}
