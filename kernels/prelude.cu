#line 2 "kernels/prelude.cu"
// What CUDA kernels share: number formats, vectors, activations, and the wrappers of instructions that only hardware has.
//
// The generated header's constants stand before this file, type aliases and operands after it. Kernels include nothing, so
// that NVRTC needs no files. Under EMULATED, the tests' emulator has defined everything in the first part already.

#ifndef EMULATED
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
#define DEV __device__ __forceinline__
#define KERNEL extern "C" __global__ void
#define DYNAMIC_SHARED(name) extern __shared__ __align__(1024) u8 name[]

DEV float f16_to_float(u16 bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

DEV u16 float_to_f16(float x) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

DEV u16 float_to_bf16(float x) {
#if __CUDA_ARCH__ >= 800
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
#else
    u32 u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (u16)(u >> 16 | 0x40);  // NaN stays one
    return (u16)((u + 0x7fff + (u >> 16 & 1)) >> 16);
#endif
}

// Two neighbours in a register, the first in its lower half.
DEV u32 pack_f16(float first, float second) {
#if __CUDA_ARCH__ >= 800
    u32 both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return both;
#else
    return float_to_f16(first) | (u32)float_to_f16(second) << 16;
#endif
}

DEV u32 pack_bf16(float first, float second) {
#if __CUDA_ARCH__ >= 800
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return both;
#else
    return float_to_bf16(first) | (u32)float_to_bf16(second) << 16;
#endif
}

// a / b to 2 ulp, for b within 2^-126 to 2^126; beyond, up to infinity, it is 0. The operator `/` is exact to the last bit, and a
// call of a function of some hundred instructions for it.
DEV float quotient(float a, float b) { return __fdividef(a, b); }

// What another block has written, past the first-level cache.
DEV float load_fresh(const float* p) {
    float x;
    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(x) : "l"(p) : "memory");
    return x;
}

// 2^x to 2 ulp; results below the normal numbers are 0.
DEV float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#if __CUDA_ARCH__ >= 750
// d += a b on tensor cores, for one m16n8k16 tile of a warp. Lane l holds rows l/4 and l/4+8 of a and d, column l/4 of b, and
// the neighbours 2(l%4), 2(l%4)+1 along the other axis (of a and b also those 8 further). Compute capability 7.5 knows only
// f16, and takes the two halves of k in turn: half the registers of a, half of b.
template <bool BF16> DEV void mma_16816(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    if (BF16) {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    } else {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
#else
#pragma unroll
    for (int half = 0; half < 2; half++)
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
#endif
}

// The same for all tiles of a warp: one call, so that the emulator meets once.
template <bool BF16, int MI, int NI>
DEV void mma_tile(float (&d)[MI][NI][4], const u32 (&a)[MI][4], const u32 (&b)[NI][2]) {
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NI; j++) mma_16816<BF16>(d[i][j], a[i], b[j]);
}

// f32 rounded to tf32's 11 digits, ties away from 0.
DEV u32 round_tf32(u32 bits) {
    u32 rounded = bits;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
#endif
    return rounded;
}

// d += a b for tiles of m16n8k8 in tf32. Lane l holds rows l/4 and l/4+8 and columns l%4 and l%4+4 of a, and of b column l/4.
// Needs compute capability 8.0.
template <int MI, int NI> DEV void mma_tile_tf32(float (&d)[MI][NI][4], const u32 (&a)[MI][4], const u32 (&b)[NI][2]) {
    u32 ra[MI][4], rb[NI][2];
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int q = 0; q < 4; q++) ra[i][q] = round_tf32(a[i][q]);
#pragma unroll
    for (int j = 0; j < NI; j++) rb[j][0] = round_tf32(b[j][0]), rb[j][1] = round_tf32(b[j][1]);
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NI; j++) {
#if __CUDA_ARCH__ >= 800
            asm volatile(
                "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                : "+f"(d[i][j][0]), "+f"(d[i][j][1]), "+f"(d[i][j][2]), "+f"(d[i][j][3])
                : "r"(ra[i][0]), "r"(ra[i][1]), "r"(ra[i][2]), "r"(ra[i][3]), "r"(rb[j][0]), "r"(rb[j][1]));
#endif
        }
}

// Four 8x8 matrices of 16-bit elements from shared memory; lane l names row l%8 of matrix l/8, 16 bytes, and gets of each
// matrix the neighbours 2(l%4), 2(l%4)+1 of row l/4.
DEV void ldmatrix_x4(u32 (&r)[4], const void* row) {
    u32 at = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

// The same of the transposed matrices: rows 2(l%4), 2(l%4)+1 of column l/4.
DEV void ldmatrix_x4_transposed(u32 (&r)[4], const void* row) {
    u32 at = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
#endif

// 16 bytes to shared memory, later: from global memory, or zeros where not `really`. Both addresses aligned to 16. Before
// compute capability 8.0 the copy is not asynchronous.
DEV void copy_async_16(void* to, const void* from, bool really) {
#if __CUDA_ARCH__ >= 800
    u32 at = (u32)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(really ? 16 : 0) : "memory");
#else
    struct alignas(16) Chunk {
        u32 v[4];
    };
    *(Chunk*)to = really ? *(const Chunk*)from : Chunk{};
#endif
}

// Closes a group of this thread's copies.
DEV void copy_async_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most the N latest groups of this thread's copies are under way.
template <int N> DEV void copy_async_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}
#endif

// 16-bit numbers as they are stored. Arithmetic is f32.
struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};

DEV float widen(float x) { return x; }
DEV float widen(f16 x) { return f16_to_float(x.bits); }
DEV float widen(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

// x rounded to T, to nearest even.
template <class T> DEV T narrow(float x);
template <> DEV float narrow<float>(float x) { return x; }
template <> DEV f16 narrow<f16>(float x) { return f16{float_to_f16(x)}; }
template <> DEV bf16 narrow<bf16>(float x) { return bf16{float_to_bf16(x)}; }

template <bool BF16> DEV u32 pack(float first, float second) {
    return BF16 ? pack_bf16(first, second) : pack_f16(first, second);
}

// N elements that are loaded and stored at once.
template <class T, int N> struct alignas(sizeof(T) * N) Vec {
    T v[N];
};

// Four numbers in registers.
struct Quad {
    float v[4];
};

// Elements p[0..4] as f32; at once where they are ALIGNED to their size.
template <bool ALIGNED, class T> DEV Quad load_quad(const T* p) {
    Vec<T, 4> own;
    if (ALIGNED) {
        own = *(const Vec<T, 4>*)p;
    } else {
        for (int i = 0; i < 4; i++) own.v[i] = p[i];
    }
    return Quad{{widen(own.v[0]), widen(own.v[1]), widen(own.v[2]), widen(own.v[3])}};
}

template <bool ALIGNED, class T> DEV void store_quad(T* p, Quad q) {
    Vec<T, 4> own;
    for (int i = 0; i < 4; i++) own.v[i] = narrow<T>(q.v[i]);
    if (ALIGNED) {
        *(Vec<T, 4>*)p = own;
    } else {
        for (int i = 0; i < 4; i++) p[i] = own.v[i];
    }
}

// Number of this block, where a line of blocks was folded into a grid of up to three dimensions.
DEV u32 linear_block() { return blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z); }

// x * Phi(x), with the lower tail taken as it is and not as a difference from 1.
DEV float gelu(float x) { return 0.5f * x * erfcf(-0.70710678f * x); }

// x * tanh(ln(1 + e)) with e = exp(x), as a quotient without cancellation; beyond 20 it is x to the last bit.
DEV float mish(float x) {
    float e = expf(fminf(x, 20.0f)), n = e * (e + 2.0f);
    return x > 20.0f ? x : x * quotient(n, n + 2.0f);
}

// The pointwise function with the code ACTIVATION (see kernels/activation.rs).
DEV float activate(float x) {
    switch (ACTIVATION) {
        case 1: return quotient(x, 1.0f + expf(-x));
        case 2: return gelu(x);
        case 3: return quotient(x, 1.0f + expf(-1.702f * x));
        case 4: return fmaxf(x, 0.0f);
        case 5: return mish(x);
        default: return x;
    }
}
#line 1 "generated header"
