// what:   attention over the frames at one position, for one head: temporal attention without a transpose, on tensor cores
// in/out: qkv [B F,P,3C] -> y [B F,P,C], C = heads WIDTH, F at most SPAN = 16 or 32
// launch: a line of ceil(B P heads / WARPS) blocks of 32 WARPS; 3 SPAN ROW WARPS dynamic shared bytes, ROW = 2 WIDTH and some
// work:   4 WIDTH flop and one exponential per pair of frames, position and head; qkv read once, y written once: bound by
//         memory
// needs:  f16 or bf16, compute capability 7.5 (bf16: 8.0), WIDTH a multiple of 8, at most 32 frames
// error:  f32 scores, softmax and sums; weights rounded to the element type, one rounding to the output's type
// idea:   a warp owns a head at a position: it brings its queries, keys and values in at once, and shares nothing, so that no
//         warp waits for another. Heads are neighbours in a block, as they are in memory

struct Params {
    // Clips, frames of each, positions of a frame, heads, and their columns taken together.
    u32 clips, frames, positions, heads, columns;
};

constexpr int MI = SPAN / 16, NK = SPAN / 8;

KERNEL __launch_bounds__(32 * WARPS) attention(OPERANDS, const Params params) {
    DYNAMIC_SHARED(shared);
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x / 32, id = linear_block() * WARPS + warp;
    if (id >= params.clips * params.positions * params.heads) return;
    const u32 head = id % params.heads, position = id / params.heads % params.positions;
    const u32 clip = id / params.heads / params.positions, row = params.positions * params.columns;
    const u64 first = (u64)(clip * params.frames * params.positions + position) * params.columns + head * WIDTH;
    u8* queries = shared + warp * 3 * SPAN * ROW;
    u8* keys = queries + SPAN * ROW;
    u8* values = keys + SPAN * ROW;

    // 1. Everything that the warp needs.
    clear_ends(queries, 2 * SPAN, lane, 32);
    const elem* from = q + first * 3 - (u64)2 * head * WIDTH;
    fetch_rows<SPAN, 32>(queries, from, params.frames, 3 * row, lane);
    fetch_rows<SPAN, 32>(keys, from + params.columns, params.frames, 3 * row, lane);
    fetch_rows<SPAN, 32>(values, from + 2 * params.columns, params.frames, 3 * row, lane);
    copy_async_commit();
    copy_async_wait<0>();
    // The copies of all lanes are there for all lanes.
    __syncwarp();

    // 2. Scores, and none for frames that are not there.
    u32 a[STEPS][MI][4];
    float s[MI][NK][4];
    load_queries(a, queries, 0);
    multiply_keys(s, a, keys);
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NK; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const u32 key = j * 8 + lane_column() + e % 2, query = i * 16 + e / 2 * 8 + lane_row();
                if (key >= params.frames || (CAUSAL && key > query && query < params.frames)) s[i][j][e] = nothing();
            }

    // 3. Softmax, values, the quotient.
    Softmax<MI> state;
    float o[MI][NV][4];
    begin(state, o);
    weigh(state, s, o);
    multiply_values(o, s, values);
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const u32 frame = i * 16 + h * 8 + lane_row();
            store_row(y + first + (u64)frame * row, frame < params.frames, state, o, i, h);
        }
}
