// What kernels compile against under the emulator: CUDA's vocabulary, and the instructions that the prelude wraps.
//
// The stand-in for NVRTC puts this file before every text, in place of the device half of kernels/prelude.cu (which is
// skipped under EMULATED). Every CUDA thread is a fiber; a block stays on one OS thread; what a warp or a block does together
// is a meeting point in the scheduler. It must not include anything heavy: parsing it is part of every compilation.
#ifndef EMULATED_KERNEL_H  // a guard, not #pragma once: the file is also used precompiled
#define EMULATED_KERNEL_H
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef unsigned long long u64;
#define DEV inline
#define KERNEL extern "C" __global__ void
#define __launch_bounds__(...)
// The mark by which the stand-in for NVRTC finds kernels in preprocessed text.
#define __global__ __attribute__((section(".text.emulated_kernel")))
#define __device__
#define __grid_constant__
#define __forceinline__ inline
// A block's static shared memory. Not in the static TLS block: there is little room for objects that are loaded late.
#define __shared__ static thread_local __attribute__((tls_model("local-dynamic")))
#define DYNAMIC_SHARED(name) u8* name = emulator::current->block->shared

#pragma GCC visibility push(default)  // what a compiled kernel takes from the stand-in driver
namespace emulator {
struct Dim3 {
  u32 x = 1, y = 1, z = 1;
};
struct Block {
  Dim3 index, threads, blocks;
  u8* shared = nullptr;
  u32 shared_bytes = 0;
  void* worker = nullptr;
};
struct Copy {
  void* to;
  const void* from;
  u32 bytes, group;
};
// One CUDA thread.
struct Fiber {
  void* stack = nullptr;
  Block* block = nullptr;
  Dim3 index;
  u32 number = 0;
  void* sanitizer = nullptr;
  bool done = false;
  const char* waits_in = nullptr;
  Copy* copies = nullptr;  // asynchronous copies that have not happened yet
  u32 copy_count = 0, copy_room = 0, copy_group = 0;
};
extern thread_local Fiber* current __attribute__((tls_model("initial-exec")));

// Runs for all lanes at once when the last of them has arrived; `args` has one entry per lane.
typedef void (*Collective)(void** args, u32 mask, u64 detail);
void warp_collective(const char* what, Collective run, void* arg, u32 mask, u64 detail);
void block_barrier();
void copy_issue(void* to, const void* from, u32 bytes, bool really);
void copy_wait(u32 keep);
void run_sync(void**, u32, u64);
void run_shuffle(void**, u32, u64);
void run_ldmatrix(void**, u32, u64);
void run_mma(void**, u32, u64);
void run_mma_tf32(void**, u32, u64);
void barrier_make(u64* b, u32 count);
void barrier_arrive(u64* b);
void barrier_wait(u64* b, u32 parity);
void barrier_expect(u64* b, u32 bytes);
void box_issue(void* to, const void* map, u32 x, u32 y, u32 z, u32 v, u64* b);
void run_product(void**, u32, u64);
void run_product_commit(void**, u32, u64);
void run_product_wait(void**, u32, u64);
struct ShuffleArg {
  u32 value;
  int select;
};
struct LdmatrixArg {
  u32* out;
  const void* row;
};
struct MmaArg {
  float* d;
  const u32 *a, *b;
};
// A warp's part of a warpgroup's product. Without registers of `a`, it is described like `b`.
struct ProductArg {
  float* d;
  const u32* registers;
  u64 a, b;
};
template <class T>
inline T shuffle(u32 mask, T v, int select, int mode) {
  static_assert(sizeof(T) == 4, "shuffles move 32 bits");
  ShuffleArg arg;
  memcpy(&arg.value, &v, 4);
  arg.select = select;
  warp_collective("shuffle", run_shuffle, &arg, mask, mode);
  memcpy(&v, &arg.value, 4);
  return v;
}

// How the driver calls a kernel: one description per kernel, found by dlsym("emulated_<name>").
typedef void (*Thunk)(const void* kernel, void** params);
struct Description {
  const char* name;
  const void* kernel;
  Thunk call;
  u32 count;
  const u32* size;
  const u8* is_pointer;
  void (*touch_shared)();
};
// Makes the loader allocate this object's static shared memory (which is thread-local) before fibers run: done lazily inside
// one of them, the allocation itself would be reported as a race.
static thread_local volatile u8 shared_byte __attribute__((tls_model("local-dynamic")));
static void touch_shared() { shared_byte = 1; }
template <unsigned... I>
struct Indices {};
template <unsigned N>
using Count = Indices<__integer_pack(N)...>;
template <class T>
struct Bare {
  typedef T type;
  static const bool pointer = false;
};
template <class T>
struct Bare<const T> : Bare<T> {};
template <class T>
struct Bare<T*> {
  typedef T* type;
  static const bool pointer = true;
};
template <class T>
struct Bare<T* const> : Bare<T*> {};
template <class... A>
struct Args {
  static constexpr u32 size[sizeof...(A) + 1] = {(u32)sizeof(A)..., 0};
  static constexpr u8 is_pointer[sizeof...(A) + 1] = {Bare<A>::pointer..., 0};
  template <unsigned... I>
  static void call(void (*f)(A...), void** p, Indices<I...>) {
    f(*(typename Bare<A>::type*)p[I]...);
  }
  static void thunk(const void* f, void** p) { call((void (*)(A...))f, p, Count<sizeof...(A)>()); }
};
template <class... A>
inline Description describe(const char* name, void (*f)(A...)) {
  return {name, (const void*)f, Args<A...>::thunk, sizeof...(A), Args<A...>::size, Args<A...>::is_pointer, touch_shared};
}
}  // namespace emulator
#pragma GCC visibility pop

#define threadIdx (emulator::current->index)
#define blockIdx (emulator::current->block->index)
#define blockDim (emulator::current->block->threads)
#define gridDim (emulator::current->block->blocks)
template <class T>
DEV T __shfl_xor_sync(u32 mask, T v, int distance) {
  return emulator::shuffle(mask, v, distance, 0);
}
template <class T>
DEV T __shfl_down_sync(u32 mask, T v, int distance) {
  return emulator::shuffle(mask, v, distance, 1);
}
template <class T>
DEV T __shfl_up_sync(u32 mask, T v, int distance) {
  return emulator::shuffle(mask, v, distance, 2);
}
template <class T>
DEV T __shfl_sync(u32 mask, T v, int lane) {
  return emulator::shuffle(mask, v, lane, 3);
}
DEV void __syncwarp(u32 mask = 0xffffffffu) {
  emulator::warp_collective("syncwarp", emulator::run_sync, nullptr, mask, 1);
}
// Between blocks, which run on several threads of the host.
DEV u32 atomicAdd(u32* p, u32 v) { return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL); }
DEV void __threadfence() { __atomic_thread_fence(__ATOMIC_ACQ_REL); }
DEV float load_fresh(const float* p) { return *p; }
DEV void __syncthreads() { emulator::block_barrier(); }
DEV float rsqrtf(float x) { return 1.0f / sqrtf(x); }
DEV float __fdividef(float a, float b) { return a / b; }
DEV float __fmul_rn(float a, float b) { return a * b; }
DEV u32 __float_as_uint(float x) {
  u32 u;
  memcpy(&u, &x, 4);
  return u;
}
DEV float __uint_as_float(u32 u) {
  float x;
  memcpy(&x, &u, 4);
  return x;
}

// The prelude's wrappers of instructions.
typedef float emulated_v4f __attribute__((vector_size(16)));
typedef short emulated_v8s __attribute__((vector_size(16)));
// The builtins and not immintrin.h: that header alone costs more to parse than a kernel to compile.
DEV float f16_to_float(u16 h) { return __builtin_ia32_vcvtph2ps(emulated_v8s{(short)h})[0]; }
DEV u16 float_to_f16(float x) { return (u16)__builtin_ia32_vcvtps2ph(emulated_v4f{x}, 0)[0]; }
DEV u16 float_to_bf16(float x) {
  u32 u = __float_as_uint(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;  // the one NaN that hardware gives
  return (u16)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
DEV u32 pack_f16(float first, float second) { return float_to_f16(first) | (u32)float_to_f16(second) << 16; }
DEV u32 pack_bf16(float first, float second) { return float_to_bf16(first) | (u32)float_to_bf16(second) << 16; }
DEV float exp2_fast(float x) { return exp2f(x); }
DEV float quotient(float a, float b) { return a / b; }
// A whole warp tile in one meeting; `BF16` chooses the operands' format.
template <bool BF16, int MI, int NI>
DEV void mma_tile(float (&d)[MI][NI][4], const u32 (&a)[MI][4], const u32 (&b)[NI][2]) {
  static_assert(MI <= 8 && NI <= 32, "mma_tile: the emulator's buffers are 128 x 256");
  emulator::MmaArg arg{&d[0][0][0], &a[0][0], &b[0][0]};
  emulator::warp_collective("mma", emulator::run_mma, &arg, 0xffffffffu, (u64)BF16 << 16 | MI << 8 | NI);
}
// The same in tf32: 8 columns of k, operands of 32 bits.
template <int MI, int NI>
DEV void mma_tile_tf32(float (&d)[MI][NI][4], const u32 (&a)[MI][4], const u32 (&b)[NI][2]) {
  static_assert(MI <= 8 && NI <= 32, "mma_tile_tf32: the emulator's buffers are 128 x 256");
  emulator::MmaArg arg{&d[0][0][0], &a[0][0], &b[0][0]};
  emulator::warp_collective("mma", emulator::run_mma_tf32, &arg, 0xffffffffu, (u64)MI << 8 | NI);
}
DEV void ldmatrix_x4(u32 (&r)[4], const void* row) {
  emulator::LdmatrixArg arg{r, row};
  emulator::warp_collective("ldmatrix", emulator::run_ldmatrix, &arg, 0xffffffffu, 0);
}
DEV void ldmatrix_x4_transposed(u32 (&r)[4], const void* row) {
  emulator::LdmatrixArg arg{r, row};
  emulator::warp_collective("ldmatrix", emulator::run_ldmatrix, &arg, 0xffffffffu, 1);
}
DEV void copy_async_16(void* to, const void* from, bool really) { emulator::copy_issue(to, from, 16, really); }
DEV void copy_async_commit() { emulator::current->copy_group++; }
template <int N>
DEV void copy_async_wait() {
  emulator::copy_wait(N);
}

// The wrappers of kernels/hopper.cu. Descriptors have the bits that hardware wants, with offsets in the block's shared memory
// for addresses.
DEV void barrier_make(u64* b, u32 count) { emulator::barrier_make(b, count); }
DEV void barriers_made() {}
DEV void barrier_arrive(u64* b) { emulator::barrier_arrive(b); }
DEV void barrier_wait(u64* b, u32 parity) { emulator::barrier_wait(b, parity); }
DEV void barrier_expect(u64* b, u32 bytes) { emulator::barrier_expect(b, bytes); }
struct alignas(64) TensorMap {
  u64 opaque[16];
};
template <class Map>
DEV void copy_box(void* to, const Map* map, u32 x, u32 y, u32 z, u32 v, u64* b) {
  emulator::box_issue(to, map, x, y, z, v, b);
}
DEV void publish() {}
template <u32 N>
DEV void fewer_registers() {}
template <u32 N>
DEV void more_registers() {}
DEV u64 shared_address(const void* p) { return (u64)((const u8*)p - emulator::current->block->shared); }
DEV u64 matrices(const void* p, u32 across, u32 along) {
  return shared_address(p) >> 4 | (u64)(along >> 4) << 16 | (u64)(across >> 4) << 32;
}
DEV u64 swizzled_rows(const void* p) { return shared_address(p) >> 4 | 1ull << 16 | 64ull << 32 | 1ull << 62; }
DEV void products_begin() {}
template <int N> DEV void hold(float (&)[N][4]) {}
DEV void products_commit() { emulator::warp_collective("products_commit", emulator::run_product_commit, nullptr, 0xffffffffu, 0); }
template <int N>
DEV void products_wait() {
  emulator::warp_collective("products_wait", emulator::run_product_wait, nullptr, 0xffffffffu, N);
}
template <bool BF16, int NI>
DEV void product(float (&d)[NI][4], u64 a, u64 b) {
  emulator::ProductArg arg{&d[0][0], nullptr, a, b};
  emulator::warp_collective("product", emulator::run_product, &arg, 0xffffffffu, (u64)BF16 << 16 | NI);
}
template <bool BF16, int NI>
DEV void product_of_registers(float (&d)[NI][4], const u32 (&a)[4], u64 b) {
  emulator::ProductArg arg{&d[0][0], a, 0, b};
  emulator::warp_collective("product", emulator::run_product, &arg, 0xffffffffu, (u64)BF16 << 16 | 1u << 17 | NI);
}
#endif
