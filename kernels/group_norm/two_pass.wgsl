// what:   group norm of one or two sources, modulation, activation: statistics of chunks, then the result
// in/out: x [items, positions, c1], x2 [items, positions, c2] -> y [items, positions, c1+c2]; weight, bias [c1+c2];
//         modulation [items, stride]; `frames` items make a clip; partial [clips, chunks, groups, 2] is scratch
// launch: twice: a line of clips * chunks * slabs workgroups of BLOCK; 12 * BLOCK shared bytes
// work:   12 flop and the activation's per element; x read twice, y written once
// needs:  nothing
// error:  Welford's updates within an invocation and Chan's combination of parts: no cancellation where mean >> deviation
// idea:   a workgroup takes a chunk of positions and a slab of whole groups, so that its loads are contiguous over channels
//         and large maps fill the device. An invocation keeps to one channel, and weight and bias to its registers.

struct Params {
    // Of the launch: clips, and chunks of each; the first of both.
    clips: u32,
    chunks: u32,
    first_clip: u32,
    first_chunk: u32,
    // Of the whole: chunks of a clip, positions of a chunk, of an item and of a clip.
    clip_chunks: u32,
    chunk: u32,
    positions: u32,
    clip_positions: u32,
    // Channels of a group, groups, groups of a slab, slabs.
    width: u32,
    groups: u32,
    slab_groups: u32,
    slabs: u32,
    c1: u32,
    c2: u32,
    // First column and row length of the modulation.
    column: u32,
    stride: u32,
    // First elements in the bindings, and the position that they belong to.
    first_x: u32,
    first_x2: u32,
    first_y: u32,
    first_position: u32,
}

// How many elements, their mean, and the sum of their squared distances from it.
struct Moments {
    count: f32,
    mean: f32,
    squares: f32,
}

var<workgroup> counts: array<f32, BLOCK>;
var<workgroup> means: array<f32, BLOCK>;
var<workgroup> squares: array<f32, BLOCK>;

// Moments of two sets together (Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm", 1979).
fn together(a: Moments, b: Moments) -> Moments {
    let count = a.count + b.count;
    if (count == 0.0) { return a; }
    let part = b.count / count;
    let d = b.mean - a.mean;
    return Moments(count, a.mean + d * part, a.squares + b.squares + d * d * a.count * part);
}

// A set with one more element (Welford, "Note on a method for calculating corrected sums of squares", 1962).
fn including(a: Moments, v: f32) -> Moments {
    let count = a.count + 1.0;
    let d = v - a.mean;
    let mean = a.mean + d / count;
    return Moments(count, mean, a.squares + d * (v - mean));
}

// An invocation's place. Invocations stand in `lines` lines of `lanes`: a lane is a channel of the slab (of a group wider
// than the workgroup: every `lanes`-th), and a line is every `lines`-th position of the chunk.
struct Place {
    works: bool,
    clip: u32,
    chunk: u32,
    first_group: u32,
    groups: u32,
    lanes: u32,
    lane: u32,
    lines: u32,
    line: u32,
    // Group within the slab; number within the group, of `members`.
    group: u32,
    member: u32,
    members: u32,
}

fn place(id: u32, local: u32) -> Place {
    var p: Place;
    p.clip = params.first_clip + id / (params.slabs * params.chunks);
    p.chunk = params.first_chunk + id / params.slabs % params.chunks;
    p.first_group = id % params.slabs * params.slab_groups;
    p.groups = min(params.slab_groups, params.groups - p.first_group);
    let lanes = min(params.slab_groups * params.width, BLOCK);
    let lanes_of_group = min(params.width, BLOCK);
    p.lanes = lanes;
    p.lane = local % lanes;
    p.lines = BLOCK / lanes;
    p.line = local / lanes;
    p.group = p.lane / lanes_of_group;
    p.member = p.line * lanes_of_group + p.lane % lanes_of_group;
    p.members = p.lines * lanes_of_group;
    p.works = p.line < p.lines && p.group < p.groups;
    return p;
}

// Moments of all members of the invocation's group together, the same for all of them.
fn combined(own: Moments, p: Place) -> Moments {
    let slot = p.group * p.members + p.member;
    if (p.works) {
        counts[slot] = own.count;
        means[slot] = own.mean;
        squares[slot] = own.squares;
    }
    for (var half = BLOCK / 2u; half > 0u; half /= 2u) {
        // Protects the upper half of every group's members until they have written it.
        workgroupBarrier();
        if (p.works && p.member < half && p.member + half < p.members) {
            let other = slot + half;
            let both = together(
                Moments(counts[slot], means[slot], squares[slot]),
                Moments(counts[other], means[other], squares[other]),
            );
            counts[slot] = both.count;
            means[slot] = both.mean;
            squares[slot] = both.squares;
        }
    }
    // Protects the groups' moments until their first members have written them.
    workgroupBarrier();
    let first = select(0u, p.group * p.members, p.works);
    return Moments(counts[first], means[first], squares[first]);
}

fn source(position: u32, channel: u32) -> f32 {
    if (channel < params.c1) {
        return read_x(params.first_x + (position - params.first_position) * params.c1 + channel);
    }
    return read_x2(params.first_x2 + (position - params.first_position) * params.c2 + channel - params.c1);
}

// Index in `partial` of the moments of a group in a chunk.
fn partial_index(clip: u32, chunk: u32, group: u32) -> u32 {
    return 2u * ((clip * params.clip_chunks + chunk) * params.groups + group);
}

// Positions of a chunk of a clip.
fn chunk_positions(chunk: u32) -> u32 {
    return min(params.chunk, params.clip_positions - chunk * params.chunk);
}

// First pass.
@compute @workgroup_size(BLOCK)
fn group_norm_statistics(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(num_workgroups) group_count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let id = linear_group(group_id, group_count);
    if (id >= params.clips * params.chunks * params.slabs) { return; }
    let p = place(id, local);
    let first = p.clip * params.clip_positions + p.chunk * params.chunk;
    let end = first + chunk_positions(p.chunk);

    // 1. Moments of the invocation's own elements.
    var own = Moments(0.0, 0.0, 0.0);
    if (p.works) {
        let slab_end = (p.first_group + p.groups) * params.width;
        for (var c = p.first_group * params.width + p.lane; c < slab_end; c += p.lanes) {
            for (var q = first + p.line; q < end; q += p.lines) {
                own = including(own, source(q, c));
            }
        }
    }

    // 2. Moments of the groups in this chunk.
    let all = combined(own, p);
    if (p.works && p.member == 0u) {
        let i = partial_index(p.clip, p.chunk, p.first_group + p.group);
        write_partial(i, all.mean);
        write_partial(i + 1u, all.squares);
    }
}

// Second pass.
@compute @workgroup_size(BLOCK)
fn group_norm(
    @builtin(workgroup_id) group_id: vec3<u32>,
    @builtin(num_workgroups) group_count: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let id = linear_group(group_id, group_count);
    if (id >= params.clips * params.chunks * params.slabs) { return; }
    let p = place(id, local);
    let first = p.clip * params.clip_positions + p.chunk * params.chunk;
    let end = first + chunk_positions(p.chunk);

    // 3. Moments of the groups in the whole clip.
    var own = Moments(0.0, 0.0, 0.0);
    if (p.works) {
        for (var k = p.member; k < params.clip_chunks; k += p.members) {
            let i = partial_index(p.clip, k, p.first_group + p.group);
            let count = f32(chunk_positions(k) * params.width);
            own = together(own, Moments(count, read_partial(i), read_partial(i + 1u)));
        }
    }
    let all = combined(own, p);
    let scale = 1.0 / sqrt(all.squares / all.count + EPS);

    // 4. Result.
    if (p.works) {
        let channels = params.c1 + params.c2;
        let slab_end = (p.first_group + p.groups) * params.width;
        for (var c = p.first_group * params.width + p.lane; c < slab_end; c += p.lanes) {
            let factor = scale * read_weight(c);
            let bias = read_bias(c);
            for (var q = first + p.line; q < end; q += p.lines) {
                let v = (source(q, c) - all.mean) * factor + bias;
                let m = q / params.positions * params.stride + params.column + c;
                let modulated = v * (1.0 + read_modulation(m)) + read_modulation(m + channels);
                write_y(params.first_y + (q - params.first_position) * channels + c, activate(modulated));
            }
        }
    }
}
