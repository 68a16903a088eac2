// State of one OS thread of the emulator, between the scheduler and the instructions that threads execute together.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "emulator.h"

#define WEAK __attribute__((weak))
extern "C" {
void* __tsan_create_fiber(unsigned) WEAK;
void __tsan_switch_to_fiber(void*, unsigned) WEAK;
void* __tsan_get_current_fiber() WEAK;
void __tsan_acquire(void*) WEAK;
void __tsan_release(void*) WEAK;
void __tsan_read_range(void*, size_t) WEAK;
void __tsan_write_range(void*, size_t) WEAK;
void __asan_poison_memory_region(void const volatile*, size_t) WEAK;
void __asan_unpoison_memory_region(void const volatile*, size_t) WEAK;
}

namespace emulator {
inline bool thread_sanitizer() { return __tsan_create_fiber != nullptr; }
inline bool address_sanitizer() { return __asan_unpoison_memory_region != nullptr; }
inline void acquire(void* p) { if (thread_sanitizer()) __tsan_acquire(p); }
inline void release(void* p) { if (thread_sanitizer()) __tsan_release(p); }
inline void note_read(const void* p, size_t n) { if (thread_sanitizer()) __tsan_read_range((void*)p, n); }
inline void forbid(const void* p, size_t n) { if (address_sanitizer()) __asan_poison_memory_region(p, n); }
inline void allow(const void* p, size_t n) { if (address_sanitizer()) __asan_unpoison_memory_region(p, n); }
inline void note_write(void* p, size_t n) { if (thread_sanitizer()) __tsan_write_range(p, n); }

// A warp's part of a warpgroup's product that has not happened yet.
struct Product {
  ProductArg args[32];
  u64 detail;
  u32 group;
};

// A copy of a box that has not happened yet: the map, its place in shared memory, its first element, its barrier.
struct Box {
  Map map;
  u32 to;
  int at[4];
  u64* barrier;
};

struct Warp {
  Collective run = nullptr;
  const char* what = nullptr;
  u32 mask = 0, arrived = 0;
  u64 detail = 0;
  void* args[32];
  u64 sync[2];
  u32 phase = 0;
  std::vector<Product> products;
  u32 product_group = 0;
};

// One block at a time.
struct Worker {
  std::vector<Fiber> fibers;
  std::vector<u8*> stacks;
  std::vector<Warp> warps;
  std::vector<u32> barrier;  // threads that wait in the block's barrier
  std::vector<std::pair<const u64*, u32>> waiting;  // threads that wait for a barrier in shared memory
  std::vector<Box> boxes;
  u64 barrier_sync[2];       // two: a thread already in the next phase must not order the present one
  u32 barrier_phase = 0;
  u32 threads = 0, alive = 0;
  Block block;
  u8* shared = nullptr;
  const Description* kernel = nullptr;
  void** params = nullptr;
  Schedule schedule = SCHEDULES[0];
  Fault fault = Fault::none;
  std::string error;
  void* main_stack = nullptr;
  void* main_sanitizer = nullptr;
  u32 random = 1;

  void resize(u32 n) {
    u32 room = 1;
    while (room < n + 1) room *= 2;
    if (queue.size() < room) queue.resize(room);
    warps.resize((fibers.size() + 31) / 32);
    barrier.reserve(1024);
  }
  void start_queue() { head = tail = 0; }
  bool runnable() const { return tail != head; }
  void push(u32 number) { queue[tail++ & (queue.size() - 1)] = number; }
  // The next thread to go on.
  u32 pop() {
    u32 m = queue.size() - 1;
    if (schedule.order == Order::last) return queue[--tail & m];
    if (schedule.order == Order::random) {
      random ^= random << 13, random ^= random >> 17, random ^= random << 5;
      std::swap(queue[(head + random % (tail - head)) & m], queue[head & m]);
    }
    return queue[head++ & m];
  }

 private:
  std::vector<u32> queue;
  u32 head = 0, tail = 0;
};

inline Worker* worker() { return (Worker*)current->block->worker; }
void block_until_woken(const char* what);
// Makes one of the late copies of boxes happen, if there is one.
bool box_due(Worker* w);
// Ends the launch with this error. Does not return.
void fail(const std::string& text);
}  // namespace emulator
