// Stands in for libnvrtc: compiles CUDA C++ for the emulator with the host's g++.
//
// The text is preprocessed, kernels are found by the mark that kernel.h's __global__ leaves, a description is appended for
// each (argument types are deduced from the function), and the rest is compiled to a shared object, which image.h makes
// "machine code". Nothing is kept between compilations: that is the engine's own cache's work.
//
// EMULATOR_CXX names the compiler (g++), EMULATOR_OPT its -O level (1), EMULATOR_SANITIZE=address or thread a sanitizer.
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <vector>

#include "image.h"

#define API extern "C" __attribute__((visibility("default"))) Result
enum Result { OK = 0, INVALID_INPUT = 3, INVALID_PROGRAM = 4, INVALID_OPTION = 5, COMPILATION = 6, INTERNAL = 11 };
// kernel.h travels in this library, so that no source tree is needed at run time.
asm(".section .rodata\n.hidden kernel_h\n.global kernel_h\n.hidden kernel_h_end\n.global kernel_h_end\n"
    "kernel_h: .incbin \"kernel.h\"\nkernel_h_end: .byte 0\n.text\n");
extern "C" const char kernel_h[], kernel_h_end[];
extern char** environ;

namespace {
typedef std::string Text;
typedef std::vector<Text> Texts;
struct Program {
  Text source, name, log, code;
};

Text setting(const char* name, const char* otherwise) {
  const char* v = getenv(name);
  return v && *v ? v : otherwise;
}
bool read_file(const Text& path, Text* out) {
  FILE* f = fopen(path.c_str(), "rb");
  if (!f) return false;
  char part[65536];
  out->clear();
  while (size_t n = fread(part, 1, sizeof part, f)) out->append(part, n);
  fclose(f);
  return true;
}
bool write_file(const Text& path, const Text& text) {
  FILE* f = fopen(path.c_str(), "wb");
  if (!f) return false;
  bool whole = fwrite(text.data(), 1, text.size(), f) == text.size();
  return fclose(f) == 0 && whole;
}

// A folder of one compilation.
struct Folder {
  Text path = setting("TMPDIR", "/tmp") + "/emulated-nvrtc-XXXXXX";
  bool made = mkdtemp(&path[0]);
  ~Folder() {
    for (const char* f : {"kernel.h", "k.cu", "k.ii", "k.o", "k.so", "log"}) unlink((path + "/" + f).c_str());
    rmdir(path.c_str());
  }
};

// Runs a command in the folder; what it says goes to `log`. It inherits neither a preloaded sanitizer nor a language.
int run(const Texts& command, const Folder& in, Text* log) {
  std::vector<char*> args, vars;
  for (auto& a : command) args.push_back((char*)a.c_str());
  for (char** e = environ; *e; e++)
    if (strncmp(*e, "LD_", 3) && strncmp(*e, "LC_", 3) && strncmp(*e, "LANG=", 5)) vars.push_back(*e);
  args.push_back(nullptr);
  vars.push_back(nullptr);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addchdir_np(&files, in.path.c_str());
  posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&files, 1, "log", O_WRONLY | O_CREAT | O_TRUNC, 0666);
  posix_spawn_file_actions_adddup2(&files, 1, 2);
  pid_t child;
  int failed = posix_spawnp(&child, args[0], &files, nullptr, args.data(), vars.data());
  posix_spawn_file_actions_destroy(&files);
  if (failed) return *log = "cannot run " + command[0] + "\n", 127;
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  read_file(in.path + "/log", log);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

// Names of the functions that carry the mark: the identifier right before the parameter list.
Texts kernels(const Text& text) {
  const Text mark = ".text.emulated_kernel\"";
  Texts names;
  for (size_t i = text.find(mark); i != Text::npos; i = text.find(mark, i)) {
    i = text.find("))", i + mark.size());
    if (i == Text::npos) break;
    size_t open = text.find('(', i + 2);
    if (open == Text::npos) break;
    size_t end = open;
    while (end > i && isspace((unsigned char)text[end - 1])) end--;
    size_t start = end;
    while (start > i && (isalnum((unsigned char)text[start - 1]) || text[start - 1] == '_')) start--;
    names.push_back(text.substr(start, end - start));
  }
  return names;
}

// g++'s messages in NVRTC's form: "k.cu:3:5: error: x" becomes "k.cu(3): error: x".
Text in_form(const Text& log) {
  Text out;
  for (size_t i = 0; i < log.size();) {
    size_t end = std::min(log.find('\n', i), log.size());
    Text line = log.substr(i, end - i);
    i = end + 1;
    size_t kind = line.find(": error: ");
    size_t column = kind == Text::npos ? kind : line.rfind(':', kind - 1);
    size_t number = column == Text::npos ? column : line.rfind(':', column - 1);
    if (number != Text::npos) line = line.substr(0, number) + "(" + line.substr(number + 1, column - number - 1) + ")" + line.substr(kind);
    out += line + "\n";
  }
  return out;
}

Texts flags() {
  Texts all = {"-std=c++17", "-O" + setting("EMULATOR_OPT", "1"), "-march=x86-64-v3", "-DEMULATED", "-D__CUDACC_RTC__",
               "-D_GLIBCXX_INCLUDE_NEXT_C_HEADERS", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique", "-fno-exceptions",
               "-fno-rtti", "-Wno-unknown-pragmas", "-Wno-psabi", "-Wno-attributes", "-fmax-errors=20",
               "-fno-diagnostics-show-caret", "-fno-diagnostics-show-option"};
  // NVIDIA's compiler makes one operation of a product and a sum wherever it likes.
  if (setting("EMULATOR_FUSE", "").size()) {
    all.insert(all.end(), {"-ffp-contract=fast", "-fexpensive-optimizations"});
  } else {
    all.push_back("-ffp-contract=off");
  }
  Text sanitizer = setting("EMULATOR_SANITIZE", "");
  if (sanitizer.size()) all.insert(all.end(), {"-g", "-fno-omit-frame-pointer", "-fsanitize=" + sanitizer});
  return all;
}

Result build(Program* p, const Text& arch) {
  Folder in;
  Text cxx = setting("EMULATOR_CXX", "g++"), text;
  Text source = "#include \"kernel.h\"\n#line 1 \"" + p->name + "\"\n" + p->source;
  if (!in.made || !write_file(in.path + "/kernel.h", Text(kernel_h, kernel_h_end)) || !write_file(in.path + "/k.cu", source)) {
    return p->log = "cannot write to " + in.path + "\n", INTERNAL;
  }
  auto step = [&](const Texts& before, const Texts& after) {
    Texts command{cxx}, options = flags();
    command.insert(command.end(), before.begin(), before.end());
    command.insert(command.end(), options.begin(), options.end());
    command.insert(command.end(), after.begin(), after.end());
    int code = run(command, in, &p->log);
    p->log = in_form(p->log);
    return code == 0 ? OK : code >= 126 ? INTERNAL : COMPILATION;
  };
  if (Result failed = step({"-E", "-x", "c++"}, {"k.cu", "-o", "k.ii"})) return failed;
  read_file(in.path + "/k.ii", &text);
  // Preprocessed text is not expanded again, so this is spelt out.
  for (auto& name : kernels(text)) {
    Text declared = "const emulator::Description emulated_" + name;
    text += "extern \"C\" { __attribute__((visibility(\"default\"))) extern " + declared + "; " + declared +
            " = emulator::describe(\"" + name + "\", " + name + "); }\n";
  }
  write_file(in.path + "/k.ii", text);
  if (Result failed = step({"-c", "-x", "c++-cpp-output"}, {"k.ii", "-o", "k.o"})) return failed;
  Texts link = {"k.o", "-o", "k.so"};
  if (setting("EMULATOR_SANITIZE", "").empty()) link.insert(link.end(), {"-nostdlib", "-lm"});
  if (Result failed = step({"-shared"}, link)) return failed;
  if (!read_file(in.path + "/k.so", &text)) return INTERNAL;
  return p->code = image::make(text, arch), OK;
}
}  // namespace

API nvrtcVersion(int* major, int* minor) { return *major = 13, *minor = 0, OK; }
static const int ARCHS[] = {75, 80, 86, 89, 90, 100, 120};
API nvrtcGetNumSupportedArchs(int* n) { return *n = sizeof ARCHS / sizeof *ARCHS, OK; }
API nvrtcGetSupportedArchs(int* archs) { return memcpy(archs, ARCHS, sizeof ARCHS), OK; }
API nvrtcCreateProgram(Program** p, const char* source, const char* name, int headers, const char* const*, const char* const*) {
  if (!p || !source || headers) return INVALID_INPUT;
  return *p = new Program{source, name ? name : "default_program", "", ""}, OK;
}
API nvrtcDestroyProgram(Program** p) { return delete *p, *p = nullptr, OK; }
API nvrtcCompileProgram(Program* p, int n, const char* const* options) {
  static const Texts ignored = {"--std=c++17", "--generate-line-info"};  // they steer what does not exist here
  Text arch;
  for (int i = 0; i < n; i++) {
    Text option = options[i], start = "--gpu-architecture=";
    bool known = false;
    for (auto& o : ignored) known |= o == option;
    if (option.compare(0, start.size(), start) == 0) arch = option.substr(start.size());
    else if (!known) return p->log = "nvrtc: error: unrecognized option " + option + " found\n", INVALID_OPTION;
  }
  bool machine = arch.compare(0, 3, "sm_") == 0;  // no portable code here
  if (!machine) return p->log = "nvrtc: error: invalid value for --gpu-architecture (-arch)\n", INVALID_OPTION;
  return build(p, arch);
}
API nvrtcGetProgramLogSize(Program* p, size_t* n) { return *n = p->log.size() + 1, OK; }
API nvrtcGetProgramLog(Program* p, char* s) { return memcpy(s, p->log.c_str(), p->log.size() + 1), OK; }
API nvrtcGetCUBINSize(Program* p, size_t* n) { return *n = p->code.size(), OK; }
API nvrtcGetCUBIN(Program* p, char* s) { return memcpy(s, p->code.data(), p->code.size()), OK; }
extern "C" __attribute__((visibility("default"))) const char* nvrtcGetErrorString(Result e) {
  return e == COMPILATION ? "NVRTC_ERROR_COMPILATION" : e == OK ? "NVRTC_SUCCESS" : "NVRTC_ERROR";
}
