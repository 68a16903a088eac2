// Runs kernels: every CUDA thread is a fiber, a block lives on one OS thread, blocks are spread over OS threads. Warp and block
// collectives are meeting points; between them, which fiber runs next is the schedule's choice.
//
// One build serves all: where the runtime of ThreadSanitizer or AddressSanitizer is in the process, it is told of the fibers.
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

#include "emulator.h"
#include "worker.h"

extern "C" void emulator_switch(void** save, void* to);
asm(R"(
.text
.type emulator_switch,@function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch,.-emulator_switch
.section .note.GNU-stack,"",@progbits
.text
)");

namespace emulator {
thread_local Fiber* current __attribute__((tls_model("initial-exec"))) = nullptr;

namespace {
// A sanitizer makes its report on the stack of the thread that it reports.
const size_t STACK = address_sanitizer() || thread_sanitizer() ? 512 << 10 : 64 << 10;
constexpr size_t PAGE = 4096, SHARED_ROOM = 256 << 10, SHARED_GUARD = 4 << 20;

void switch_to(Worker* w, void** save, u32 number) {
  Fiber* to = &w->fibers[number];
  current = to;
  if (thread_sanitizer()) __tsan_switch_to_fiber(to->sanitizer, 1);
  emulator_switch(save, to->stack);
}

void to_main(Worker* w) {
  void* nowhere;
  if (thread_sanitizer()) __tsan_switch_to_fiber(w->main_sanitizer, 1);
  emulator_switch(&nowhere, w->main_stack);
}

std::string place(const Worker* w) {
  char text[128];
  const Dim3& b = w->block.index;
  snprintf(text, sizeof text, "%s, block (%u,%u,%u)", w->kernel->name, b.x, b.y, b.z);
  return text;
}

void deadlock(Worker* w) {
  std::string text = "deadlock in " + place(w) + ":";
  int shown = 0;
  for (const Fiber& f : w->fibers)
    if (f.number < w->threads && !f.done && shown++ < 6)
      text += " thread " + std::to_string(f.number) + " in " + (f.waits_in ? f.waits_in : "?") + ";";
  fail(text);
}

void fiber_main() {
  Worker* w = worker();
  acquire(w);
  w->kernel->call(w->kernel->kernel, w->params);
  release(w);
  Fiber* me = current;
  me->done = true;
  me->copy_count = 0;
  w->alive--;
  // Threads that have ended no longer take part in the block's barrier.
  if (!w->barrier.empty() && w->barrier.size() == w->alive) {
    for (u32 waiting : w->barrier) w->push(waiting);
    w->barrier.clear();
    w->barrier_phase++;
  }
  if (w->alive == 0 && !w->boxes.empty()) fail("a block ends before its copies have come");
  if (w->alive == 0) to_main(w);
  block_until_woken("exit");
  abort();
}

u8* new_stack() {  // with a guard page below: an overflow becomes an illegal address
  void* p = mmap(nullptr, STACK + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) abort();
  mprotect(p, PAGE, PROT_NONE);
  return (u8*)p + PAGE;
}

bool run_block(Worker& w) {
  w.start_queue();
  w.error.clear();
  w.barrier.clear();
  w.waiting.clear();
  w.boxes.clear();
  for (Warp& warp : w.warps) warp.arrived = warp.product_group = 0, warp.products.clear();
  memset(w.block.shared, 0xff, w.block.shared_bytes);  // NaN in every format
  for (u32 i = 0; i < w.threads; i++) {
    Fiber& f = w.fibers[i];
    const Dim3& n = w.block.threads;
    f.block = &w.block;
    f.number = i;
    f.index = {i % n.x, i / n.x % n.y, i / (n.x * n.y)};
    f.done = false;
    f.waits_in = nullptr;
    f.copy_count = f.copy_group = 0;
    allow(w.stacks[i], STACK);
    // Stacks that start at the same offset would share cache sets.
    u64* top = (u64*)(w.stacks[i] + STACK - 64 - i % 61 * 320);
    *--top = 0;
    *--top = (u64)(void*)fiber_main;
    top -= 6;
    memset(top, 0, 48);
    f.stack = top;
    if (thread_sanitizer() && !f.sanitizer) f.sanitizer = __tsan_create_fiber(0);
    w.push(i);
  }
  w.alive = w.threads;
  acquire(&w);
  release(&w);
  if (thread_sanitizer()) w.main_sanitizer = __tsan_get_current_fiber();
  switch_to(&w, &w.main_stack, w.pop());
  current = nullptr;
  acquire(&w);
  return w.error.empty();
}

// A fault inside a kernel (a bad pointer, a division by zero) ends the launch and not the process.
thread_local int fault_signal;
thread_local const void* fault_address;
void on_fault() {  // on the faulting fiber's stack, after the signal handler returned
  Worker* w = worker();
  char text[320];
  const Dim3& t = current->index;
  const char* what = fault_signal == SIGFPE ? "arithmetic exception at" : "illegal address";
  snprintf(text, sizeof text, "%s %p in %s thread (%u,%u,%u)", what, fault_address, place(w).c_str(), t.x, t.y, t.z);
  w->fault = fault_signal == SIGFPE ? Fault::failed : Fault::address;
  fail(text);
}

struct sigaction old_actions[NSIG];
void handler(int signal, siginfo_t* info, void* context) {
  if (!current) {  // not in a kernel: the fault repeats under the old handler
    sigaction(signal, &old_actions[signal], nullptr);
    return;
  }
  fault_signal = signal;
  fault_address = info->si_addr;
  auto& registers = ((ucontext_t*)context)->uc_mcontext.gregs;
  registers[REG_RSP] = (greg_t)(worker()->stacks[current->number] + STACK - 64) - 8;
  registers[REG_RIP] = (greg_t)(void*)on_fault;
}

void install_handlers() {
  if (address_sanitizer() || thread_sanitizer()) return;  // their reports say more
  struct sigaction action = {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  for (int s : {SIGSEGV, SIGBUS, SIGFPE}) sigaction(s, &action, &old_actions[s]);
}

struct Job {
  const Description* kernel;
  Schedule schedule;
  Dim3 blocks, threads;
  u32 shared;
  void** params;
  std::atomic<u64> next{0};
  std::atomic<bool> bad{false};
  std::mutex lock;
  std::string error;
  Fault fault = Fault::none;
};

void prepare(Worker& w, const Job& j) {
  w.threads = j.threads.x * j.threads.y * j.threads.z;
  size_t old = w.fibers.size();
  if (old < w.threads) w.fibers.resize(w.threads);
  for (; old < w.threads; old++) w.stacks.push_back(new_stack());
  w.resize(w.threads);
  if (!w.shared) {  // ends at pages that nobody may touch
    void* p = mmap(nullptr, SHARED_ROOM + SHARED_GUARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) abort();
    w.shared = (u8*)p;
    mprotect(w.shared + SHARED_ROOM, SHARED_GUARD, PROT_NONE);
  }
  w.block.threads = j.threads;
  w.block.blocks = j.blocks;
  w.block.shared = w.shared + SHARED_ROOM - ((j.shared + 1023) & ~1023u);
  w.block.shared_bytes = j.shared;
  allow(w.shared, SHARED_ROOM);
  forbid(w.shared, w.block.shared - w.shared);
  forbid(w.block.shared + j.shared, w.shared + SHARED_ROOM - w.block.shared - j.shared);
  w.block.worker = &w;
  w.kernel = j.kernel;
  w.params = j.params;
  w.schedule = j.schedule;
  w.random = j.schedule.seed * 2654435761u | 1;
}

void work(Worker& w, Job& j) {
  j.kernel->touch_shared();
  prepare(w, j);
  u64 count = (u64)j.blocks.x * j.blocks.y * j.blocks.z;
  for (u64 i; !j.bad && (i = j.next++) < count;) {
    w.block.index = {(u32)(i % j.blocks.x), (u32)(i / j.blocks.x % j.blocks.y), (u32)(i / j.blocks.x / j.blocks.y)};
    w.fault = Fault::failed;
    if (run_block(w)) continue;
    std::lock_guard<std::mutex> hold(j.lock);
    if (!j.bad) j.error = w.error, j.fault = w.fault;
    j.bad = true;
  }
}

// A fixed set of OS threads, each with its own fibers. Launches take turns.
struct Pool {
  static constexpr int THREADS = 2;
  std::mutex turn, lock;
  std::condition_variable go, done;
  Job* job = nullptr;
  u64 generation = 0;
  int busy = 0;
  bool started = false;

  void loop() {
    stack_t alternate = {};
    alternate.ss_size = 64 << 10;
    alternate.ss_sp = malloc(alternate.ss_size);
    sigaltstack(&alternate, nullptr);
    Worker* own = new Worker;
    u64 seen = 0;
    std::unique_lock<std::mutex> hold(lock);
    for (;;) {
      go.wait(hold, [&] { return generation != seen; });
      seen = generation;
      Job* j = job;
      hold.unlock();
      work(*own, *j);
      hold.lock();
      if (--busy == 0) done.notify_all();
    }
  }

  void run(Job& j) {
    std::lock_guard<std::mutex> only(turn);
    std::unique_lock<std::mutex> hold(lock);
    if (!started) {
      install_handlers();
      for (int i = 0; i < THREADS; i++) std::thread([this] { loop(); }).detach();
      started = true;
    }
    job = &j;
    busy = THREADS;
    generation++;
    go.notify_all();
    done.wait(hold, [&] { return busy == 0; });
  }
};
}  // namespace

void block_until_woken(const char* what) {
  Fiber* me = current;
  Worker* w = worker();
  me->waits_in = what;
  // Copies of boxes come as late as they may: when nothing else can go on.
  while (!w->runnable() && box_due(w)) {}
  if (!w->runnable()) deadlock(w);
  u32 next = w->pop();
  if (next != me->number) switch_to(w, &me->stack, next);
  me->waits_in = nullptr;
}

void fail(const std::string& text) {
  worker()->error = text;
  to_main(worker());
}

Fault launch(const Description& k, Schedule s, Dim3 blocks, Dim3 threads, u32 shared, void** params, std::string* error) {
  static Pool* pool = new Pool;
  Job j;
  j.kernel = &k, j.schedule = s, j.blocks = blocks, j.threads = threads, j.shared = shared, j.params = params;
  pool->run(j);
  *error = j.error;
  return j.fault;
}
}  // namespace emulator
