// Stands in for libcuda.so.1: the calls that the engine makes, executed on the CPU. Device pointers are host pointers, streams
// run at once, and each device is one schedule of the emulator. Like a GPU, a device whose kernel crashed refuses every call
// until its context is given up; unlike one, it also refuses launches whose pointers lie in no live buffer.
//
// EMULATOR_CAPABILITY sets the compute capability (90), EMULATOR_MEMORY the bytes of a device's memory (8 GiB),
// EMULATOR_DRIVER the driver's version (13000), EMULATOR_DEVICES the number of devices (8). EMULATOR_FAULT=CALL:N:CODE makes the
// Nth call of that name fail with that code; a code that says that the context is beyond use stays.
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "emulator.h"
#include "image.h"
#include "worker.h"

#define API extern "C" __attribute__((visibility("default"))) Result
typedef unsigned long long Address;
typedef int Device;
enum Result {
  OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_IMAGE = 200,
  INVALID_CONTEXT = 201, NO_BINARY = 209, ECC = 214, NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700,
  OUT_OF_RESOURCES = 701, LAUNCH_FAILED = 719, CAPTURE_INVALID = 901,
};

namespace {
struct Context {
  Device device;
  int users = 0;
  Result broken = OK;  // the first kernel failure
};
struct Function {
  const emulator::Description* kernel;
  // Shared memory that its text declares, and dynamic shared memory that it may have besides.
  int own_shared, most_shared;
};
struct Module {
  std::map<std::string, Function> functions;
  void* object = nullptr;
  int file = -1, own_shared = 0;
};
typedef std::vector<std::function<Result()>> Operations;
struct Stream {
  Context* context;
  std::unique_ptr<Operations> capture;
};
struct Event {
  double time = 0;
};
struct Pool {
  Device device;
};

std::mutex lock;
std::map<Address, size_t> live;
size_t live_bytes = 0;
Context contexts[emulator::DEVICES];
thread_local Context* entered = nullptr;

long setting(const char* name, long otherwise) {
  const char* text = getenv(name);
  return text && *text ? atol(text) : otherwise;
}
int devices() { return (int)std::min<long>(setting("EMULATOR_DEVICES", emulator::DEVICES), emulator::DEVICES); }
int capability() { return (int)setting("EMULATOR_CAPABILITY", 90); }
// Bytes of shared memory that a block may ask for.
int most_shared() {
  switch (capability()) {
    case 75: return 64 << 10;
    case 80: case 87: return 163 << 10;
    case 86: case 89: case 120: return 99 << 10;
    default: return (int)emulator::MOST_SHARED;
  }
}
size_t memory() { return (size_t)setting("EMULATOR_MEMORY", 8l << 30); }
Result here() { return entered ? entered->broken : INVALID_CONTEXT; }

bool inside(Address p, size_t n) {
  std::lock_guard<std::mutex> hold(lock);
  auto next = live.upper_bound(p);
  if (next == live.begin()) return false;
  auto& [start, size] = *--next;
  return p + n <= start + size;
}

// Does it, or records it where the stream captures.
Result submit(void* stream, std::function<Result()> operation) {
  if (Result broken = here()) return broken;
  auto* s = (Stream*)stream;
  if (!s) return INVALID_VALUE;
  if (!s->capture) return operation();
  s->capture->push_back(operation);
  return OK;
}

// Whether this call is the one that is to fail.
Result fault(const char* call) {
  static const char* wanted = getenv("EMULATOR_FAULT");
  static std::atomic<int> calls{0};
  size_t n = strlen(call);
  if (!wanted || strncmp(wanted, call, n) || wanted[n] != ':') return OK;
  char* rest;
  long which = strtol(wanted + n + 1, &rest, 10);
  int code = *rest ? atoi(rest + 1) : 0;
  if (++calls != which) return OK;
  if (entered && (code == ECC || code == LAUNCH_FAILED || code == ILLEGAL_ADDRESS)) entered->broken = (Result)code;
  return (Result)code;
}
#define MAY_FAIL(call) if (Result failed = fault(call)) return failed

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// A buffer ends, to its alignment of 256, at a page that nobody may touch; once freed, it is unmapped.
constexpr size_t PAGE = 4096;
size_t mapped(size_t n) { return (n + PAGE - 1) / PAGE * PAGE + PAGE; }

Result allocate(Address* p, size_t n) {
  if (Result broken = here()) return broken;
  if (!n) return INVALID_VALUE;
  std::lock_guard<std::mutex> hold(lock);
  if (live_bytes + n > memory()) return OUT_OF_MEMORY;
  size_t size = mapped(n);
  void* m = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (m == MAP_FAILED) return OUT_OF_MEMORY;
  mprotect((char*)m + size - PAGE, PAGE, PROT_NONE);
  *p = ((Address)m + size - PAGE - n) & ~255ull;
  emulator::forbid(m, size - PAGE);
  emulator::allow((void*)*p, n);
  memset((void*)*p, 0xff, n);
  live[*p] = n;
  live_bytes += n;
  return OK;
}

Result release(Address p) {
  std::lock_guard<std::mutex> hold(lock);
  auto found = live.find(p);
  if (found == live.end()) return INVALID_VALUE;
  emulator::allow((void*)(p & ~(PAGE - 1)), mapped(found->second) - PAGE);
  munmap((void*)(p & ~(PAGE - 1)), mapped(found->second));
  live_bytes -= found->second;
  live.erase(found);
  return OK;
}

// The engine's guards between operands are known by their pattern; where AddressSanitizer watches, no kernel may touch them.
void upload(Address to, const void* from, size_t n) {
  emulator::allow((void*)to, n);
  memcpy((void*)to, from, n);
  if (!emulator::address_sanitizer()) return;
  const auto* bytes = (const u8*)from;
  for (size_t i = 0; i + 1 < n; i += 2) {
    size_t start = i;
    while (i + 1 < n && bytes[i] == 0xc3 && bytes[i + 1] == 0xff) i += 2;
    if (i - start >= 64) emulator::forbid((u8*)to + start, i - start);
  }
}

// Copies move whole words and whole arenas, guards too: AddressSanitizer must not see it.
void download(void* to, Address from, size_t n) {
  if (!emulator::address_sanitizer()) return (void)memmove(to, (void*)from, n);
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

Result load(Module* m, const void* data) {
  std::string arch;
  size_t size = image::read(data, &arch);
  if (!size) return INVALID_IMAGE;
  int made = atoi(arch.c_str() + 3), own = capability();
  bool exact = isalpha(arch.back());
  if (made / 10 != own / 10 || made > own || (exact && made != own)) return NO_BINARY;
  // Objects take the emulator from this library, which the program opened locally: make it global once.
  static std::once_flag once;
  std::call_once(once, [] {
    Dl_info self;
    if (dladdr((void*)&submit, &self)) dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL);
  });
  m->file = memfd_create("emulated-module", MFD_CLOEXEC);
  if (m->file < 0 || write(m->file, data, size) != (ssize_t)size) return OUT_OF_MEMORY;
  m->own_shared = image::thread_local_bytes(data);
  m->object = dlopen(("/proc/self/fd/" + std::to_string(m->file)).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!m->object) fprintf(stderr, "emulator: %s\n", dlerror());
  return m->object ? OK : INVALID_IMAGE;
}

void unload(Module* m) {
  // A sanitizer's report looks names up in what was loaded before.
  if (emulator::address_sanitizer() || emulator::thread_sanitizer()) return;
  if (m->object) dlclose(m->object);
  if (m->file >= 0) close(m->file);
  delete m;
}

Result run(const Function& f, Context* context, emulator::Dim3 blocks, emulator::Dim3 threads, unsigned shared,
           const std::vector<void*>& params) {
  const auto& k = *f.kernel;
  auto broken = [&](Result code, const std::string& why) {
    fprintf(stderr, "emulator: %s\n", why.c_str());
    if (!context->broken) context->broken = code;
    return OK;  // as on a GPU, a later call reports it
  };
  for (u32 i = 0; i < k.count; i++) {
    Address p;
    if (!k.is_pointer[i]) continue;
    memcpy(&p, params[i], 8);
    if (!inside(p, 1)) return broken(ILLEGAL_ADDRESS, std::string(k.name) + ": argument " + std::to_string(i) + " lies in no live buffer");
  }
  std::string error;
  std::vector<void*> list = params;
  auto fault = emulator::launch(k, emulator::SCHEDULES[context->device], blocks, threads, shared, list.data(), &error);
  if (fault == emulator::Fault::none) return OK;
  return broken(fault == emulator::Fault::address ? ILLEGAL_ADDRESS : LAUNCH_FAILED, error);
}
}  // namespace

API cuInit(unsigned) { return devices() > 0 ? OK : NO_DEVICE; }
API cuDriverGetVersion(int* v) { return *v = (int)setting("EMULATOR_DRIVER", 13000), OK; }
API cuDeviceGet(Device* d, int i) { return *d = i, i >= 0 && i < devices() ? OK : INVALID_DEVICE; }
API cuDeviceGetCount(int* n) { return *n = devices(), OK; }
API cuDeviceGetName(char* s, int n, Device d) { return snprintf(s, n, "CPU emulation, schedule %d", d), OK; }
API cuDeviceTotalMem_v2(size_t* b, Device) { return *b = memory(), OK; }
API cuDeviceGetAttribute(int* v, int attribute, Device) {
  static const std::map<int, int> values = {
      {1, 1024}, {8, 48 << 10}, {10, 32}, {16, 4}, {38, 1 << 20}, {75, capability() / 10}, {76, capability() % 10},
      {97, most_shared()}, {115, 1},
  };
  auto found = values.find(attribute);
  return *v = found == values.end() ? 0 : found->second, OK;
}

API cuDevicePrimaryCtxRetain(void** c, Device d) {
  std::lock_guard<std::mutex> hold(lock);
  contexts[d].device = d;
  contexts[d].users++;
  *c = &contexts[d];
  return OK;
}
API cuDevicePrimaryCtxRelease_v2(Device d) {
  std::lock_guard<std::mutex> hold(lock);
  if (--contexts[d].users == 0) contexts[d].broken = OK;
  return OK;
}
API cuCtxSetCurrent(void* c) { return entered = (Context*)c, OK; }
API cuCtxGetCurrent(void** c) { return *c = entered, OK; }

API cuMemAlloc_v2(Address* p, size_t n) { return allocate(p, n); }
API cuMemFree_v2(Address p) { return release(p); }
API cuMemPoolCreate(void** pool, const void*) { return *pool = new Pool{0}, OK; }
API cuMemPoolSetAttribute(void*, int, void*) { return OK; }
API cuMemPoolTrimTo(void*, size_t) { return here(); }
API cuMemPoolDestroy(void* pool) { return delete (Pool*)pool, OK; }
API cuMemAllocFromPoolAsync(Address* p, size_t n, void*, void*) {
  MAY_FAIL("cuMemAllocFromPoolAsync");
  return allocate(p, n);
}
API cuMemHostAlloc(void** p, size_t n, unsigned) {
  MAY_FAIL("cuMemHostAlloc");
  return *p = malloc(n), *p ? OK : OUT_OF_MEMORY;
}
API cuMemFreeHost(void* p) { return free(p), OK; }
API cuMemFreeAsync(Address p, void*) { return release(p); }
API cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t n, void* stream) {
  MAY_FAIL("cuMemcpyHtoDAsync");
  if (!inside(to, n)) return INVALID_VALUE;
  return submit(stream, [=] { return upload(to, from, n), OK; });
}
API cuMemcpyDtoHAsync_v2(void* to, Address from, size_t n, void* stream) {
  if (!inside(from, n)) return INVALID_VALUE;
  return submit(stream, [=] { return download(to, from, n), OK; });
}
API cuMemcpyDtoDAsync_v2(Address to, Address from, size_t n, void* stream) {
  if (!inside(from, n) || !inside(to, n)) return INVALID_VALUE;
  return submit(stream, [=] { return download((void*)to, from, n), OK; });
}
API cuMemsetD8Async(Address to, unsigned char value, size_t n, void* stream) {
  if (!inside(to, n)) return INVALID_VALUE;
  return submit(stream, [=] { return memset((void*)to, value, n), OK; });
}

API cuStreamCreate(void** s, unsigned) { return *s = new Stream{entered, nullptr}, here(); }
API cuStreamDestroy_v2(void* s) { return delete (Stream*)s, OK; }
API cuStreamSynchronize(void*) {
  MAY_FAIL("cuStreamSynchronize");
  return here();
}
API cuStreamBeginCapture_v2(void* s, int) { return ((Stream*)s)->capture.reset(new Operations), here(); }
API cuStreamEndCapture(void* s, void** graph) {
  auto& capture = ((Stream*)s)->capture;
  if (!capture) return CAPTURE_INVALID;
  return *graph = capture.release(), OK;
}
API cuGraphInstantiateWithFlags(void** e, void* g, unsigned long long) {
  MAY_FAIL("cuGraphInstantiate");
  return *e = new Operations(*(Operations*)g), OK;
}
API cuGraphUpload(void*, void*) { return here(); }
API cuGraphLaunch(void* e, void*) {
  MAY_FAIL("cuGraphLaunch");
  for (auto& operation : *(Operations*)e) {
    if (Result broken = here()) return broken;
    if (Result failed = operation()) return failed;
  }
  return OK;
}
API cuGraphExecDestroy(void* e) { return delete (Operations*)e, OK; }
API cuGraphDestroy(void* g) { return delete (Operations*)g, OK; }
API cuEventCreate(void** e, unsigned) { return *e = new Event, OK; }
API cuEventDestroy_v2(void* e) { return delete (Event*)e, OK; }
API cuEventRecord(void* e, void*) { return ((Event*)e)->time = now(), here(); }
API cuEventSynchronize(void*) { return here(); }
API cuEventElapsedTime_v2(float* ms, void* a, void* b) {
  return *ms = (float)((((Event*)b)->time - ((Event*)a)->time) * 1e3), here();
}

API cuModuleLoadData(void** m, const void* data) {
  MAY_FAIL("cuModuleLoadData");
  if (Result broken = here()) return broken;
  auto* made = new Module;
  if (Result failed = load(made, data)) return unload(made), failed;
  return *m = made, OK;
}
API cuModuleUnload(void* m) { return unload((Module*)m), OK; }
API cuModuleGetFunction(void** f, void* m, const char* name) {
  auto* from = (Module*)m;
  auto* kernel = (const emulator::Description*)dlsym(from->object, (std::string("emulated_") + name).c_str());
  if (!kernel) return NOT_FOUND;
  Function made{kernel, from->own_shared, (48 << 10) - from->own_shared};
  return *f = &from->functions.insert({name, made}).first->second, OK;
}
API cuFuncSetAttribute(void* f, int attribute, int v) {
  auto* function = (Function*)f;
  if (attribute != 8 || v + function->own_shared > most_shared()) return INVALID_VALUE;
  return function->most_shared = v, OK;
}
API cuFuncGetAttribute(int* v, int attribute, void* f) {
  return *v = attribute == 0 ? 1024 : attribute == 1 ? ((Function*)f)->own_shared : 0, OK;
}
API cuLaunchKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   void* stream, void** params, void** extra) {
  auto* function = (Function*)f;
  const auto& k = *function->kernel;
  u64 threads = (u64)bx * by * bz;
  if (!gx || !gy || !gz || !threads || threads > 1024 || bz > 64 || gx > 0x7fffffffu || gy > 65535 || gz > 65535) return INVALID_VALUE;
  if ((int)shared > function->most_shared || extra || (k.count && !params)) return INVALID_VALUE;
  // Values are copied at the call, each to a place aligned for any type; a graph keeps its copy.
  size_t room = 0;
  for (u32 i = 0; i < k.count; i++) room += (k.size[i] + 63) & ~63u;
  std::shared_ptr<u8> values((u8*)aligned_alloc(64, room + 64), free);
  std::vector<void*> list;
  size_t at = 0;
  for (u32 i = 0; i < k.count; i++) {
    list.push_back(memcpy(values.get() + at, params[i], k.size[i]));
    at += (k.size[i] + 63) & ~63u;
  }
  Context* context = entered;
  return submit(stream, [=] { return values, run(*function, context, {gx, gy, gz}, {bx, by, bz}, shared, list); });
}

// Only what the engine asks for: four extents, dense, of 16 bits, boxes of 64 columns in rows of 128 bytes that are swizzled,
// or of 8.
API cuTensorMapEncodeTiled(void* to, int type, unsigned rank, void* base, const u64* extents, const u64* strides, const u32* box,
                           const u32* steps, int interleave, int swizzle, int, int fill) {
  MAY_FAIL("cuTensorMapEncodeTiled");
  if ((type != 6 && type != 9) || rank != 4 || interleave || swizzle != (box[0] == 64 ? 3 : 0) || fill) return INVALID_VALUE;
  if (box[0] != 64 && box[0] != 8) return INVALID_VALUE;
  emulator::Map map{emulator::Map::MARK, base, {}, {}};
  u64 bytes = 2;
  for (int d = 0; d < 4; d++) {
    if (d > 0 && (strides[d - 1] != bytes || bytes % 16)) return INVALID_VALUE;
    if (!extents[d] || extents[d] > 1ull << 32 || !box[d] || box[d] > 256 || steps[d] != 1) return INVALID_VALUE;
    map.extents[d] = (u32)extents[d], map.of_box[d] = box[d];
    bytes *= extents[d];
  }
  if ((u64)to % 64 || (u64)base % 16 || !inside((Address)base, bytes)) return INVALID_VALUE;
  memset(to, 0, 128);
  memcpy(to, &map, sizeof map);
  return OK;
}

// NVIDIA's own libnvrtc asks for it, so that it can be tried beside this driver, and must be told that there is none.
API cuGetExportTable(const void** table, const void*) { return *table = nullptr, NOT_FOUND; }

static const struct {
  int code;
  const char *name, *text;
} ERRORS[] = {
    {OK, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {NO_BINARY, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {ECC, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
    {OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
};
API cuGetErrorName(int code, const char** s) {
  for (auto& e : ERRORS) if (e.code == code) return *s = e.name, OK;
  return INVALID_VALUE;
}
API cuGetErrorString(int code, const char** s) {
  for (auto& e : ERRORS) if (e.code == code) return *s = e.text, OK;
  return INVALID_VALUE;
}
