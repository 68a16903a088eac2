struct Params { count: u32, width: u32, scale: f32 }

@compute @workgroup_size(64)
fn scale_add(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let i = (group.y * params.width + group.x) * 64u + lane;
    if (i < params.count) {
        write_out(i, params.scale * read_x(i) + read_w(i));
    }
}
