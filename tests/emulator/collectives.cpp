// What the threads of a warp or a block execute together: barriers, shuffles, fragments, tensor-core products; and copies
// that happen later than they are issued.
#include <immintrin.h>

#include <cstdlib>

#include "worker.h"

namespace emulator {
void warp_collective(const char* what, Collective run, void* arg, u32 mask, u64 detail) {
  Fiber* me = current;
  Worker* w = worker();
  u32 lane = me->number & 31, first = me->number & ~31u;
  Warp& warp = w->warps[me->number >> 5];
  if (warp.arrived == 0) {
    warp.run = run, warp.mask = mask, warp.detail = detail, warp.what = what;
  } else if (warp.run != run || warp.mask != mask || warp.detail != detail) {
    fail(std::string("divergent warp: a lane is in ") + what + " while others wait in " + warp.what);
  }
  if (!(mask >> lane & 1)) fail(std::string(what) + ": the calling lane is not in its mask");
  warp.args[lane] = arg;
  warp.arrived |= 1u << lane;
  u32 rest = w->threads - first, full = rest >= 32 ? ~0u : (1u << rest) - 1, phase = warp.phase & 1;
  bool orders = run == run_sync;  // the other collectives exchange registers and order no memory
  if (orders) release(&warp.sync[phase]);
  if (warp.arrived == (mask & full)) {
    warp.arrived = 0;
    warp.phase++;
    run(warp.args, mask & full, detail);
    for (u32 i = 0; i < 32; i++) {
      u32 other = w->schedule.order == Order::last ? 31 - i : i;
      if (other != lane && mask & full & 1u << other) w->push(first + other);
    }
    if (w->schedule.order == Order::random) {
      w->push(me->number);
      block_until_woken(what);
    }
  } else {
    block_until_woken(what);
  }
  if (orders) acquire(&warp.sync[phase]);
}

void block_barrier() {
  Fiber* me = current;
  Worker* w = worker();
  u64* sync = &w->barrier_sync[w->barrier_phase & 1];
  release(sync);
  if (w->barrier.size() + 1 == w->alive) {
    if (w->schedule.order == Order::last) {
      for (size_t i = w->barrier.size(); i--;) w->push(w->barrier[i]);
    } else {
      for (u32 waiting : w->barrier) w->push(waiting);
    }
    w->barrier_phase++;
    w->barrier.clear();
    if (w->schedule.order == Order::random) {
      w->push(me->number);
      block_until_woken("barrier");
    }
  } else {
    w->barrier.push_back(me->number);
    block_until_woken("barrier");
  }
  acquire(sync);
}

void run_sync(void**, u32, u64) {}

void run_shuffle(void** args, u32 mask, u64 mode) {
  u32 value[32];
  for (int i = 0; i < 32; i++) value[i] = mask >> i & 1 ? ((ShuffleArg*)args[i])->value : 0xdeadbeefu;
  for (int i = 0; i < 32; i++) {
    if (!(mask >> i & 1)) continue;
    auto* own = (ShuffleArg*)args[i];
    int from[] = {i ^ own->select, i + own->select, i - own->select, own->select & 31};
    int lane = from[mode];
    own->value = value[lane < 0 || lane > 31 ? i : lane];
  }
}

// Lane l gets, of each of four 8x8 matrices, the two neighbours at row l/4 and column 2(l%4); transposed, at those swapped.
void run_ldmatrix(void** args, u32, u64 transposed) {
  for (int m = 0; m < 4; m++) {
    const u16* rows[8];
    for (int i = 0; i < 8; i++) {
      rows[i] = (const u16*)((LdmatrixArg*)args[m * 8 + i])->row;
      note_read(rows[i], 16);
      if ((uintptr_t)rows[i] & 15) fail("ldmatrix: a row is not aligned to 16 bytes");
      u32 offset = (u32)((const u8*)rows[i] - current->block->shared);
      if (offset + 16 > current->block->shared_bytes) fail("ldmatrix: a row outside shared memory");
    }
    for (int l = 0; l < 32; l++) {
      u32 pair;
      int row = l >> 2, column = (l & 3) * 2;
      if (transposed)
        pair = rows[column][row] | (u32)rows[column + 1][row] << 16;
      else
        memcpy(&pair, rows[row] + column, 4);
      ((LdmatrixArg*)args[l])->out[m] = pair;
    }
  }
}

static float element(u16 bits, bool bf16) {
  if (!bf16) return _cvtsh_ss(bits);
  u32 wide = (u32)bits << 16;
  float x;
  memcpy(&x, &wide, 4);
  return x;
}

// d += a b for tiles of m16n8k; lane l holds rows l/4 and l/4+8 of d, and columns 2(l%4) and 2(l%4)+1.
template <int K>
static void multiply(void** args, int tiles_m, int tiles_n, const float (&a)[128][16], const float (&b)[16][256]) {
  alignas(32) float d[256];
  const int n = tiles_n * 8;
  for (int row = 0; row < tiles_m * 16; row++) {
    for (int c = 0; c < n; c += 8) {
      __m256 sum = _mm256_setzero_ps();
      for (int k = 0; k < K; k++) sum = _mm256_fmadd_ps(_mm256_broadcast_ss(&a[row][k]), _mm256_load_ps(&b[k][c]), sum);
      _mm256_store_ps(d + c, sum);
    }
    int tile = row >> 4, half = row >> 3 & 1, group = row & 7;
    for (int t = 0; t < 4; t++) {
      float* out = ((MmaArg*)args[group * 4 + t])->d + tile * tiles_n * 4 + half * 2;
      for (int j = 0; j < tiles_n; j++)
        for (int e = 0; e < 2; e++) out[j * 4 + e] += d[j * 8 + t * 2 + e];
    }
  }
}

// Operands of 16 bits, k = 16: columns 2(l%4) and its neighbour, and those 8 further.
void run_mma(void** args, u32, u64 detail) {
  const int tiles_m = detail >> 8 & 255, tiles_n = detail & 255;
  const bool bf16 = detail >> 16 & 1;
  alignas(32) float a[128][16], b[16][256];
  for (int l = 0; l < 32; l++) {
    const auto* own = (const MmaArg*)args[l];
    int group = l >> 2, pair = (l & 3) * 2;
    for (int i = 0; i < tiles_m; i++) {
      const u16* f = (const u16*)(own->a + i * 4);
      for (int q = 0; q < 8; q++)  // registers: (row, row+8) x (column, column+8), two neighbours in each
        a[i * 16 + group + (q >> 1 & 1) * 8][pair + (q & 1) + (q >> 2) * 8] = element(f[q], bf16);
    }
    for (int j = 0; j < tiles_n; j++) {
      const u16* f = (const u16*)(own->b + j * 2);
      for (int q = 0; q < 4; q++) b[pair + (q & 1) + (q >> 1) * 8][j * 8 + group] = element(f[q], bf16);
    }
  }
  multiply<16>(args, tiles_m, tiles_n, a, b);
}

static float tf32(u32 bits) {  // nearest, ties away from 0
  u32 rounded = (bits + 0x1000) & ~0x1fffu;
  float x;
  memcpy(&x, &rounded, 4);
  return x;
}

// Operands of 32 bits, k = 8: columns l%4 and l%4+4.
void run_mma_tf32(void** args, u32, u64 detail) {
  const int tiles_m = detail >> 8 & 255, tiles_n = detail & 255;
  alignas(32) float a[128][16], b[16][256];
  for (int l = 0; l < 32; l++) {
    const auto* own = (const MmaArg*)args[l];
    int group = l >> 2, column = l & 3;
    for (int i = 0; i < tiles_m; i++)
      for (int q = 0; q < 4; q++) a[i * 16 + group + (q & 1) * 8][column + (q >> 1) * 4] = tf32(own->a[i * 4 + q]);
    for (int j = 0; j < tiles_n; j++)
      for (int q = 0; q < 2; q++) b[column + q * 4][j * 8 + group] = tf32(own->b[j * 2 + q]);
  }
  multiply<8>(args, tiles_m, tiles_n, a, b);
}

static void copy(const Copy& c) {
  if (c.from) {
    note_read(c.from, c.bytes);
    memcpy(c.to, c.from, c.bytes);
  } else {
    memset(c.to, 0, c.bytes);
  }
  note_write(c.to, c.bytes);
}

void copy_issue(void* to, const void* from, u32 bytes, bool really) {
  Fiber* me = current;
  Copy c{to, really ? from : nullptr, bytes, me->copy_group};
  u32 offset = (u32)((u8*)to - me->block->shared);
  if (offset + bytes > me->block->shared_bytes || offset & 15) fail("cp.async: outside shared memory, or not aligned");
  if (really && (uintptr_t)from & (bytes - 1)) fail("cp.async: the source is not aligned");
  if (!worker()->schedule.late) return copy(c);
  if (me->copy_count == me->copy_room) {
    me->copy_room = me->copy_room ? me->copy_room * 2 : 32;
    me->copies = (Copy*)realloc(me->copies, me->copy_room * sizeof c);
  }
  me->copies[me->copy_count++] = c;
}

void copy_wait(u32 keep) {
  Fiber* me = current;
  u32 kept = 0;
  for (u32 i = 0; i < me->copy_count; i++) {
    if (me->copies[i].group + keep < me->copy_group)
      copy(me->copies[i]);
    else
      me->copies[kept++] = me->copies[i];
  }
  me->copy_count = kept;
}
}  // namespace emulator
