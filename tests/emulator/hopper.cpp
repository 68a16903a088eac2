// What compute capability 9.0 has of its own: barriers in shared memory, copies of boxes, and products of a warpgroup, both of
// which happen later than they are issued. A warpgroup's product is four warps' products that share nothing, so each warp does its own.
#include <immintrin.h>

#include "worker.h"

namespace emulator {
// A barrier in shared memory: arrivals of a phase and those that are missing, and bytes of copies that are.
struct Barrier {
  u8 count, pending;
  u16 phase;
  int bytes;
};
static_assert(sizeof(Barrier) == 8, "as on hardware");

void barrier_make(u64* b, u32 count) {
  if (count == 0 || count > 255) fail("mbarrier: a count that no kernel uses");
  Barrier made{(u8)count, (u8)count, 0, 0};
  memcpy(b, &made, 8);
}

// Completes the phase where nothing is missing, and wakes those that wait for it.
static void settle(u64* b, Barrier own) {
  if (own.pending == 0 && own.bytes == 0) {
    own.pending = own.count;
    own.phase ^= 1;
    Worker* w = worker();
    for (size_t i = 0; i < w->waiting.size();) {
      if (w->waiting[i].first == b) {
        w->push(w->waiting[i].second);
        w->waiting[i] = w->waiting.back();
        w->waiting.pop_back();
      } else {
        i++;
      }
    }
  }
  memcpy(b, &own, 8);
}

static Barrier barrier_at(const u64* b) {
  Barrier own;
  memcpy(&own, b, 8);
  if (own.phase > 1 || own.pending > own.count) fail("mbarrier: what is used as one is none");
  return own;
}

void barrier_arrive(u64* b) { barrier_expect(b, 0); }

void barrier_expect(u64* b, u32 bytes) {
  Barrier own = barrier_at(b);
  release(b);
  if (own.pending == 0) fail("mbarrier: more arrivals than it was made for");
  own.pending--;
  own.bytes += (int)bytes;
  settle(b, own);
}

void barrier_wait(u64* b, u32 parity) {
  while (barrier_at(b).phase == parity) {
    worker()->waiting.push_back({b, current->number});
    block_until_woken("mbarrier");
  }
  acquire(b);
}

// What cuTensorMapEncodeTiled has written.
static const Map& map_of(const void* p) {
  const auto* map = (const Map*)p;
  if (map->mark != Map::MARK) fail("a box of what is no tensor map");
  return *map;
}

static void box_happen(const Box& box) {
  const Map& map = box.map;
  acquire(box.barrier);
  const u32 columns = map.of_box[0];
  for (u32 r = 0; r < map.rows(); r++) {
    const u32 along[] = {r % map.of_box[1], r / map.of_box[1] % map.of_box[2], r / map.of_box[1] / map.of_box[2]};
    bool there = true;
    size_t row = 0;
    for (int d = 3; d > 0; d--) {
      const int at = box.at[d] + (int)along[d - 1];
      there = there && at >= 0 && at < (int)map.extents[d];
      row = row * map.extents[d] + at;
    }
    for (u32 c = 0; c < columns / 8; c++) {
      u16 chunk[8];
      for (int e = 0; e < 8; e++) {
        const int column = box.at[0] + (int)c * 8 + e;
        const u16* from = (const u16*)map.base + row * map.extents[0] + column;
        chunk[e] = 0;
        if (there && column >= 0 && column < (int)map.extents[0]) note_read(from, 2), memcpy(chunk + e, from, 2);
      }
      u32 to = box.to + r * columns * 2 + c * 16;
      if (columns == 64) to ^= (to >> 7 & 7) << 4;
      memcpy(current->block->shared + to, chunk, 16);
      note_write(current->block->shared + to, 16);
    }
  }
  release(box.barrier);
  Barrier own = barrier_at(box.barrier);
  own.bytes -= (int)(map.rows() * columns * 2);
  if (own.bytes < 0 && own.pending == 0) fail("mbarrier: more bytes come than are expected");
  settle(box.barrier, own);
}

bool box_due(Worker* w) {
  if (w->boxes.empty()) return false;
  size_t i = w->schedule.order == Order::last ? w->boxes.size() - 1 : 0;
  if (w->schedule.order == Order::random) i = (w->random = w->random * 1664525 + 1013904223) % w->boxes.size();
  const Box box = w->boxes[i];
  w->boxes.erase(w->boxes.begin() + i);
  box_happen(box);
  return true;
}

void box_issue(void* to, const void* map, u32 x, u32 y, u32 z, u32 v, u64* b) {
  Box box{map_of(map), (u32)((u8*)to - current->block->shared), {(int)x, (int)y, (int)z, (int)v}, b};
  if (box.to & (box.map.of_box[0] == 64 ? 1023 : 127)) fail("a box in shared memory that is not aligned");
  if (box.to + box.map.rows() * box.map.of_box[0] * 2 > current->block->shared_bytes) fail("a box outside shared memory");
  barrier_at(b);
  release(b);
  if (worker()->schedule.late)
    worker()->boxes.push_back(box);
  else
    box_happen(box);
}

static float element(const u8* at, bool bf16) {
  u16 bits;
  note_read(at, 2);
  memcpy(&bits, at, 2);
  if (!bf16) return _cvtsh_ss(bits);
  u32 wide = (u32)bits << 16;
  float x;
  memcpy(&x, &wide, 4);
  return x;
}

// Element (i, k) of a described operand, where i is a row or column of the result. `columns`: its neighbours along i, not
// along k, are neighbours in memory.
static const u8* find(u64 what, u32 i, u32 k, bool columns) {
  u32 start = (u32)(what & 0x3fff) << 4, along = (u32)(what >> 16 & 0x3fff) << 4, across = (u32)(what >> 32 & 0x3fff) << 4;
  u32 at;
  switch (what >> 62) {
    case 0:
      at = start + i / 8 * across + k / 8 * along + (columns ? k % 8 * 16 + i % 8 * 2 : i % 8 * 16 + k % 8 * 2);
      break;
    case 1:
      if (columns) fail("wgmma: an operand along columns with rows of 128 bytes");
      at = start + i / 8 * across + i % 8 * 128 + k * 2;
      at ^= (at >> 7 & 7) << 4;
      break;
    default:
      fail("wgmma: a swizzle that no kernel uses");
      return nullptr;
  }
  if (at + 2 > current->block->shared_bytes) fail("wgmma: an operand outside shared memory");
  return current->block->shared + at;
}

static void happen(const Product& p) {
  const int tiles = p.detail & 255, warp = current->number / 32 % 4;
  const bool bf16 = p.detail >> 16 & 1, registers = p.detail >> 17 & 1;
  alignas(32) float a[16][16], b[16][256], d[256];
  for (int l = 0; l < 32 && registers; l++) {
    const u16* f = (const u16*)p.args[l].registers;
    for (int q = 0; q < 8; q++)
      a[(l >> 2) + (q >> 1 & 1) * 8][(l & 3) * 2 + (q & 1) + (q >> 2) * 8] = element((const u8*)(f + q), bf16);
  }
  for (int i = 0; i < 16 && !registers; i++)
    for (int k = 0; k < 16; k++) a[i][k] = element(find(p.args[0].a, warp * 16 + i, k, false), bf16);
  for (int n = 0; n < tiles * 8; n++)
    for (int k = 0; k < 16; k++) b[k][n] = element(find(p.args[0].b, n, k, registers), bf16);
  for (int row = 0; row < 16; row++) {
    for (int c = 0; c < tiles * 8; c += 8) {
      __m256 sum = _mm256_setzero_ps();
      for (int k = 0; k < 16; k++) sum = _mm256_fmadd_ps(_mm256_broadcast_ss(&a[row][k]), _mm256_load_ps(&b[k][c]), sum);
      _mm256_store_ps(d + c, sum);
    }
    for (int t = 0; t < 4; t++) {
      float* out = p.args[(row & 7) * 4 + t].d + (row >> 3) * 2;
      for (int j = 0; j < tiles; j++)
        for (int e = 0; e < 2; e++) out[j * 4 + e] += d[j * 8 + t * 2 + e];
    }
  }
}

void run_product(void** args, u32 mask, u64 detail) {
  if (~mask) fail("wgmma: lanes are missing");
  Warp& warp = worker()->warps[current->number / 32];
  Product p;
  for (int l = 0; l < 32; l++) p.args[l] = *(const ProductArg*)args[l];
  p.detail = detail;
  p.group = warp.product_group;
  if (p.args[31].a != p.args[0].a || p.args[31].b != p.args[0].b) fail("wgmma: lanes describe different operands");
  if (worker()->schedule.late)
    warp.products.push_back(p);
  else
    happen(p);
}

void run_product_commit(void**, u32, u64) { worker()->warps[current->number / 32].product_group++; }

void run_product_wait(void**, u32, u64 keep) {
  Warp& warp = worker()->warps[current->number / 32];
  size_t kept = 0;
  for (const Product& p : warp.products) {
    if (p.group + keep < warp.product_group)
      happen(p);
    else
      warp.products[kept++] = p;
  }
  warp.products.resize(kept);
}
}  // namespace emulator
