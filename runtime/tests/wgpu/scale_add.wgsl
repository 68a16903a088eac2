struct Params { count: u32, width: u32, scale: f32 }

@group(0) @binding(0) var<storage, read_write> x: array<elem>;
@group(0) @binding(2) var<storage, read_write> out: array<elem>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn scale_add(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let i = (group.y * params.width + group.x) * 64u + lane;
    if (i < params.count) {
        out[i] = elem(params.scale) * x[i] + w[i];
    }
}
