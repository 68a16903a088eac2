// The driver's side of the emulator: launches, and the order in which threads and asynchronous copies take effect.
#pragma once
#include "kernel.h"
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim
#include <string>

namespace emulator {
enum class Order { first, last, random };  // which of the threads that can go on does
// A device is one schedule. Correct kernels give the same under every one.
struct Schedule {
  Order order;
  bool late;  // asynchronous copies happen when they are waited for, as late as allowed, and not when they are issued
  u32 seed;
};
constexpr Schedule SCHEDULES[] = {
    {Order::first, false, 1}, {Order::last, false, 1}, {Order::random, false, 1}, {Order::first, true, 1},
    {Order::last, true, 1},   {Order::random, true, 1}, {Order::random, true, 2},  {Order::random, false, 3},
};
constexpr int DEVICES = sizeof SCHEDULES / sizeof *SCHEDULES;
constexpr u32 MOST_SHARED = 232448;  // as on compute capability 9.0

// What the stand-in driver writes to a tensor map: dense elements of 16 bits, boxes of 64 columns (swizzled) or 8.
struct Map {
  static constexpr u64 MARK = 0x50414d524f534e54;
  u64 mark;
  const void* base;
  u32 extents[4], of_box[4];
  u32 rows() const { return of_box[1] * of_box[2] * of_box[3]; }
};

enum class Fault { none, address, failed };
// Runs a grid to its end. What went wrong is in `error`.
Fault launch(const Description& kernel, Schedule schedule, Dim3 blocks, Dim3 threads, u32 shared, void** params, std::string* error);
}  // namespace emulator
