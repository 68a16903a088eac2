// what:   one wrapper of prelude.cu on operands that make its result exact, chosen by WRAPPER
// in/out: x [128] f32 -> y [4096], words of 32 bits
// launch: one block of 32 threads; 512 bytes of dynamic shared memory
// work:   none to speak of
// needs:  compute capability 7.5; 8.0 for bf16 and tf32 on tensor cores
// error:  none: small integers, whose sums are exact in any order
// idea:   what the emulator takes a wrapper to mean is recorded; hardware gives the same words or the emulator is wrong

struct Params {
    u32 unused;
};

DEV float small(u32 n) { return (float)(n % 11) - 5.0f; }

template <bool BF16> DEV void product_of_tile(u32* out, u32 lane) {
    u32 a[1][4], b[1][2];
    float d[1][1][4];
    for (u32 i = 0; i < 4; i++) {
        a[0][i] = pack<BF16>(small(lane * 7 + i * 3), small(lane * 5 + i * 2 + 1));
        if (i < 2) b[0][i] = pack<BF16>(small(lane * 3 + i * 5), small(lane * 9 + i + 4));
        d[0][0][i] = small(lane + i);
    }
    mma_tile<BF16, 1, 1>(d, a, b);
    for (u32 i = 0; i < 4; i++) out[lane * 4 + i] = __float_as_uint(d[0][0][i]);
}

KERNEL __launch_bounds__(32) wrapper(OPERANDS, const Params params) {
    DYNAMIC_SHARED(shared);
    u32* out = (u32*)y;
    const u32 lane = threadIdx.x;
    for (u32 i = lane; i < 4096; i += 32) out[i] = params.unused;
    if (WRAPPER == 0 || WRAPPER == 1) {
        u16* cells = (u16*)shared;
        for (u32 i = lane; i < 256; i += 32) cells[i] = (u16)i;
        // The matrices are there.
        __syncwarp();
        u32 r[4];
        if (WRAPPER == 0) ldmatrix_x4(r, shared + lane * 16);
        if (WRAPPER == 1) ldmatrix_x4_transposed(r, shared + lane * 16);
        for (u32 i = 0; i < 4; i++) out[lane * 4 + i] = r[i];
    }
    if (WRAPPER == 2) product_of_tile<false>(out, lane);
    if (WRAPPER == 3) product_of_tile<true>(out, lane);
    if (WRAPPER == 4) {
        u32 a[1][4], b[1][2];
        float d[1][1][4];
        for (u32 i = 0; i < 4; i++) {
            // Between two numbers of tf32 where the integer is 1 or -1.
            a[0][i] = __float_as_uint(small(lane * 7 + i * 3) * 1.00048828125f);
            if (i < 2) b[0][i] = __float_as_uint(small(lane * 3 + i * 5));
            d[0][0][i] = small(lane + i);
        }
        mma_tile_tf32<1, 1>(d, a, b);
        for (u32 i = 0; i < 4; i++) out[lane * 4 + i] = __float_as_uint(d[0][0][i]);
    }
    if (WRAPPER == 5) {
        copy_async_16(shared + (31 - lane) * 16, x + lane * 4, lane % 3 != 0);
        copy_async_commit();
        copy_async_wait<0>();
        // The copies of all lanes are there.
        __syncwarp();
        for (u32 i = 0; i < 4; i++) out[lane * 4 + i] = ((const u32*)shared)[lane * 4 + i];
    }
    if (WRAPPER == 6) {
        for (u32 i = lane; i < 128; i += 32) {
            const float v = x[i];
            const u16 half = float_to_f16(v);
            out[i] = half | (u32)float_to_bf16(v) << 16;
            out[128 + i] = pack_f16(v, -v);
            out[256 + i] = pack_bf16(v, -v);
            out[384 + i] = __float_as_uint(f16_to_float(half));
        }
    }
}
