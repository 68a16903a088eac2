// what:   operands of the kernels that give a workgroup to each clip and group.

struct Params {
    // Of the whole launch, and of one group.
    clips: u32,
    groups: u32,
    width: u32,
    // Of one item, and of one clip.
    positions: u32,
    clip_positions: u32,
    c1: u32,
    c2: u32,
    // First column and row length of the modulation.
    column: u32,
    stride: u32,
}

// An element of the two sources side by side.
fn source(position: u32, channel: u32) -> f32 {
    if (channel < params.c1) {
        return read_x(position * params.c1 + channel);
    }
    return read_x2(position * params.c2 + channel - params.c1);
}

