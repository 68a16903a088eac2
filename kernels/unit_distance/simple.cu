// what:   y = sum over c of w_c (a_c / (|a| + eps) - b_c / (|b| + eps))^2, pixel by pixel
// in/out: x [2 pixels, channels], the pixels of all a before those of all b; w [channels] -> y [pixels] in f32
// launch: a line of ceil(pixels / BLOCK) blocks of BLOCK; no shared memory
// work:   10 flop per channel and pixel; x read twice (the second time from cache), y written once
// needs:  nothing
// error:  f32 sums channel by channel
// idea:   one thread per pixel: a walk for the norms, a walk for the distance

struct Params {
    u32 pixels, channels;
    float eps;
};

KERNEL __launch_bounds__(BLOCK) unit_distance(OPERANDS, const Params params) {
    u32 i = linear_block() * BLOCK + threadIdx.x;
    if (i >= params.pixels) return;
    u32 a = i * params.channels, b = (params.pixels + i) * params.channels;
    float power_a = 0.0f, power_b = 0.0f;
    for (u32 c = 0; c < params.channels; c++) {
        float va = read_x(a + c), vb = read_x(b + c);
        power_a += va * va;
        power_b += vb * vb;
    }
    float norm_a = sqrtf(power_a) + params.eps, norm_b = sqrtf(power_b) + params.eps, sum = 0.0f;
    for (u32 c = 0; c < params.channels; c++) {
        float d = read_x(a + c) / norm_a - read_x(b + c) / norm_b;
        sum += read_w(c) * d * d;
    }
    write_y(i, sum);
}
