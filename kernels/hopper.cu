#line 2 "kernels/hopper.cu"
// Wrappers of what compute capability 9.0 has of its own: products of a warpgroup (four warps) read from shared memory,
// barriers in shared memory, copies of boxes of a tensor, and registers that warps hand to each other.
//
// Under EMULATED, the tests' emulator has defined all of this already. What it means there has not been compared with hardware
// yet.

#if !defined(EMULATED) && defined(__CUDA_ARCH_FEAT_SM90_ALL)
DEV u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// A barrier whose phases complete when `count` threads have arrived. One thread makes it; then `barriers_made`, then a barrier
// of the block.
DEV void barrier_make(u64* b, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count) : "memory");
}
DEV void barriers_made() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEV void barrier_arrive(u64* b) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}

// Waits until the phase of this parity is complete; the one before the first is.
DEV void barrier_wait(u64* b, u32 parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra ready;\n"
        "bra again;\n"
        "ready:\n"
        "}" ::"r"(shared_address(b)), "r"(parity) : "memory");
}

// Arrives, and lets the phase wait for so many bytes of copies besides.
DEV void barrier_expect(u64* b, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}

// A kernel's parameter from which boxes of a tensor in global memory are copied.
struct alignas(64) TensorMap {
    u64 opaque[16];
};

// The box whose first element is x along the innermost extent of the tensor, y, z and v along the others (they may lie before
// it), to shared memory at a multiple of 1024 bytes (one of 8 columns: of 128); its bytes, those of zeros beyond the edges too,
// count for the barrier's phase.
template <class Map> DEV void copy_box(void* to, const Map* map, u32 x, u32 y, u32 z, u32 v, u64* b) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(
            shared_address(to)), "l"(map), "r"(shared_address(b)), "r"(x), "r"(y), "r"(z), "r"(v) : "memory");
}

// Makes what this thread has written to shared memory visible to the products of warpgroups.
DEV void publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Registers of each thread of a warpgroup from here on: a multiple of 8.
template <u32 N> DEV void fewer_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
template <u32 N> DEV void more_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }

// Describes an operand in shared memory: 8x8 matrices of 16-bit elements, each 128 contiguous bytes, `across` bytes apart
// along rows (or columns) of the result and `along` bytes apart along k.
DEV u64 matrices(const void* p, u32 across, u32 along) {
    return (u64)((shared_address(p) & 0x3ffff) >> 4) | (u64)(along >> 4) << 16 | (u64)(across >> 4) << 32;
}

// The same of rows of 128 bytes along k, in groups of eight, with chunk c of row r at place c ^ r % 8. `p` may lie a multiple
// of 32 bytes into a group; groups are aligned to 1024.
DEV u64 swizzled_rows(const void* p) {
    return (u64)((shared_address(p) & 0x3ffff) >> 4) | (u64)1 << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}

// Sums and operands in registers stay where they are here: the compiler moves no use of them past it. It knows of products only what
// their operands say, which is no longer true once they are under way.
template <int N> DEV void hold(float (&d)[N][4]) {
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])::"memory");
}

// Before the first product, and between changes of sums by other means and products.
DEV void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// Closes a group of products.
DEV void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most the N latest groups are under way. Until then neither sums nor operands may be touched.
template <int N> DEV void products_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }

// d += a b for a tile of 64 rows and 8 NI columns, k = 16. Warp w of the warpgroup holds rows 16 w to 16 w + 15 of d, as
// m16n8 tiles are held by a warp.
#define SUMS(d, i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define SUMS_4(d) SUMS(d, 0), SUMS(d, 1), SUMS(d, 2), SUMS(d, 3)
#define SUMS_5(d) SUMS_4(d), SUMS(d, 4)
#define SUMS_8(d) SUMS_5(d), SUMS(d, 5), SUMS(d, 6), SUMS(d, 7)
#define SUMS_10(d) SUMS_8(d), SUMS(d, 8), SUMS(d, 9)
#define SUMS_16(d) SUMS_10(d), SUMS(d, 10), SUMS(d, 11), SUMS(d, 12), SUMS(d, 13), SUMS(d, 14), SUMS(d, 15)
#define SUMS_20(d) SUMS_16(d), SUMS(d, 16), SUMS(d, 17), SUMS(d, 18), SUMS(d, 19)
#define LIST_4 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define LIST_5 LIST_4 ",%16,%17,%18,%19"
#define LIST_8 LIST_5 ",%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define LIST_10 LIST_8 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define LIST_16 LIST_10 ",%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define LIST_20 LIST_16 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define PRODUCT(n, type, list, operands) \
    "{\n.reg .pred add;\nsetp.eq.u32 add, 0, 0;\nwgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type \
    " {" list "}, " operands ";\n}"

// Both operands from shared memory, along k.
#define FROM_SHARED(NI, n, a, b)                                                                                      \
    template <bool BF16> DEV void product(float (&d)[NI][4], u64 da, u64 db) {                                        \
        if (BF16) {                                                                                                   \
            asm volatile(PRODUCT(n, "bf16", LIST_##NI, a ", " b ", add, 1, 1, 0, 0") : SUMS_##NI(d) : "l"(da), "l"(db)); \
        } else {                                                                                                      \
            asm volatile(PRODUCT(n, "f16", LIST_##NI, a ", " b ", add, 1, 1, 0, 0") : SUMS_##NI(d) : "l"(da), "l"(db)); \
        }                                                                                                             \
    }
FROM_SHARED(8, "64", "%32", "%33")
FROM_SHARED(16, "128", "%64", "%65")

// The first operand from registers, as a fragment of m16n8k16; the second from shared memory, along columns.
#define FROM_REGISTERS(NI, n, a, b)                                                                                   \
    template <bool BF16> DEV void product_of_registers(float (&d)[NI][4], const u32 (&r)[4], u64 db) {                \
        if (BF16) {                                                                                                   \
            asm volatile(PRODUCT(n, "bf16", LIST_##NI, a ", " b ", add, 1, 1, 1")                                     \
                         : SUMS_##NI(d) : "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "l"(db));                       \
        } else {                                                                                                      \
            asm volatile(PRODUCT(n, "f16", LIST_##NI, a ", " b ", add, 1, 1, 1")                                      \
                         : SUMS_##NI(d) : "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "l"(db));                       \
        }                                                                                                             \
    }
FROM_REGISTERS(4, "32", "{%16,%17,%18,%19}", "%20")
FROM_REGISTERS(5, "40", "{%20,%21,%22,%23}", "%24")
FROM_REGISTERS(8, "64", "{%32,%33,%34,%35}", "%36")
FROM_REGISTERS(10, "80", "{%40,%41,%42,%43}", "%44")
FROM_REGISTERS(16, "128", "{%64,%65,%66,%67}", "%68")
FROM_REGISTERS(20, "160", "{%80,%81,%82,%83}", "%84")
#endif
