// What the stand-in for NVRTC hands out as machine code: a shared object (real machine code is ELF too), then a footer:
// MARK, u32 length, architecture. It holds all that the stand-in driver needs, so that the engine's own cache can be tested.
#pragma once
#include <cstdint>
#include <cstring>
#include <string>

namespace image {
constexpr char MARK[9] = "EMULATED";

inline size_t elf_size(const unsigned char* p) {  // an ELF file ends with its section headers
  uint64_t sections;
  uint16_t size, count;
  memcpy(&sections, p + 40, 8);
  memcpy(&size, p + 58, 2);
  memcpy(&count, p + 60, 2);
  return sections + (size_t)size * count;
}

inline std::string make(const std::string& object, const std::string& arch) {
  uint32_t length = arch.size();
  return object + std::string(MARK, 8) + std::string((char*)&length, 4) + arch;
}

// Bytes of an object's static shared memory, which is thread-local in it: the segment that says so, but for what touches it.
inline int thread_local_bytes(const void* data) {
  auto* p = (const unsigned char*)data;
  uint64_t headers, bytes = 0;
  uint16_t size, count;
  memcpy(&headers, p + 32, 8);
  memcpy(&size, p + 54, 2);
  memcpy(&count, p + 56, 2);
  for (uint16_t i = 0; i < count; i++) {
    const unsigned char* header = p + headers + (size_t)size * i;
    uint32_t type;
    memcpy(&type, header, 4);
    if (type == 7) memcpy(&bytes, header + 40, 8);
  }
  return bytes > 16 ? (int)bytes : 0;
}

// The driver's interface passes no length. Gives the size of the object, or 0 where this is not an image of ours.
inline size_t read(const void* data, std::string* arch) {
  auto* p = (const unsigned char*)data;
  uint16_t machine;
  if (memcmp(p, "\x7f" "ELF", 4)) return 0;
  memcpy(&machine, p + 18, 2);
  if (machine != 62) return 0;  // EM_X86_64; real machine code is EM_CUDA
  size_t n = elf_size(p);
  if (memcmp(p + n, MARK, 8)) return 0;
  uint32_t length;
  memcpy(&length, p + n + 8, 4);
  arch->assign((const char*)p + n + 12, length);
  return n;
}
}  // namespace image
