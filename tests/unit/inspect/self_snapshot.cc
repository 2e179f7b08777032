#include "tests/unit/inspect/self_snapshot.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/user.h>
#include <ucontext.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "core/base/error.h"
#include "core/base/fd.h"
#include "core/base/strings.h"

namespace snapgdb::test {
namespace {

struct Line {
  uint64_t start = 0, end = 0, offset = 0;
  uint32_t protection = 0;
  std::string path;
};

uint32_t to_protection(std::string_view text) {
  return (text[0] == 'r' ? PROT_READ : 0) | (text[1] == 'w' ? PROT_WRITE : 0) |
         (text[2] == 'x' ? PROT_EXEC : 0);
}

std::vector<Line> own_maps() {
  std::vector<Line> lines;
  std::ifstream maps("/proc/self/maps");
  for (std::string text; std::getline(maps, text);) {
    const auto fields = split_blank(text);
    const auto range = split(fields[0], '-');
    lines.push_back({*parse_number<uint64_t>(range[0], 16), *parse_number<uint64_t>(range[1], 16),
                     *parse_number<uint64_t>(fields[2], 16), to_protection(fields[1]),
                     fields.size() > 5 ? std::string(fields[5]) : ""});
  }
  return lines;
}

std::string contents_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream bytes;
  bytes << file.rdbuf();
  return bytes.str();
}

// Through the kernel, since a sanitizer would object to reading the red zones of a stack.
std::string own_memory(uint64_t address, uint64_t size) {
  std::string bytes(size, '\0');
  const Fd memory(open("/proc/self/mem", O_RDONLY | O_CLOEXEC));
  const auto out = std::as_writable_bytes(std::span(bytes));
  bytes.resize(pread_upto(memory.get(), out, address, "/proc/self/mem"));
  return bytes;
}

user_regs_struct to_registers(const ucontext_t& context) {
  const auto& from = context.uc_mcontext.gregs;
  const auto at = [&](int number) { return static_cast<unsigned long long>(from[number]); };
  user_regs_struct to{};
  to.rbx = at(REG_RBX), to.rbp = at(REG_RBP), to.rsp = at(REG_RSP), to.rip = at(REG_RIP);
  to.r12 = at(REG_R12), to.r13 = at(REG_R13), to.r14 = at(REG_R14), to.r15 = at(REG_R15);
  return to;
}

// The build-id note of an ELF file, found as the only note of its name and type.
std::string build_id_of(std::string_view bytes) {
  constexpr std::string_view kNote("\4\0\0\0\24\0\0\0\3\0\0\0GNU\0", 16);  // 20 bytes follow
  const size_t at = bytes.find(kNote);
  return at == std::string_view::npos ? "" : std::string(bytes.substr(at + kNote.size(), 20));
}

class Self {
 public:
  Self(const SelfOptions& options, const ucontext_t& context)
      : options_(options), process_(builder_.process(kSelfPid)) {
    process_.record().set_name("inspect_tests");
    const user_regs_struct registers = to_registers(context);
    process_.thread(kSelfPid, registers.rip, registers.rsp);
    process_.last_thread().set_registers(&registers, sizeof registers);
    process_.last_thread().set_name("main");
    for (const Line& line : own_maps()) add(line, registers.rsp);
  }

  std::shared_ptr<const Snapshot> build() const { return builder_.build(); }

 private:
  void add(const Line& line, uint64_t sp) {
    const uint64_t size = line.end - line.start;
    if (line.path.starts_with('/') && line.path.find("libLLVM") == line.path.npos)
      add_file(line);  // LLVM's 110 MB are on no stack here
    else if (line.path == "[vdso]")
      process_.memory(line.start, own_memory(line.start, size), line.protection, line.path);
    else if (sp >= line.start && sp < line.end)
      add_stack(line, page_down(sp - sizeof sp));  // with the return address of a call made there
  }

  void add_stack(const Line& line, uint64_t from) {
    const uint64_t known = std::min(line.end - from, page_up(options_.stack_bytes));
    if (known) process_.memory(from, own_memory(from, known), line.protection, line.path);
    if (from + known < line.end)
      process_.unavailable(from + known, line.end - from - known, "left out by the test");
  }

  void add_file(const Line& line) {
    const uint32_t id = file_id(line.path);
    process_.mapped_file(line.start, line.end - line.start, id, line.offset, line.protection);
  }

  uint32_t file_id(const std::string& path) {
    const auto [entry, is_new] = ids_.try_emplace(path);
    if (is_new) entry->second = embed(path);
    return entry->second;
  }

  uint32_t embed(const std::string& path) {
    if (!options_.embed_files) return builder_.file(path, "", pb::FILE_LIBRARY);
    const std::string bytes = contents_of(path);
    const std::string build_id = build_id_of(bytes);
    const std::string hex = to_hex(build_id);
    if (options_.debug_files && !hex.empty()) {
      const std::string debug =
          fmt::format("/usr/lib/debug/.build-id/{}/{}.debug", hex.substr(0, 2), hex.substr(2));
      if (std::filesystem::exists(debug))
        builder_.file(debug, contents_of(debug), pb::FILE_DEBUG, build_id);
    }
    return builder_.file(path, options_.change_file(path, bytes), pb::FILE_LIBRARY, build_id);
  }

  const SelfOptions& options_;
  SnapshotBuilder builder_;
  SnapshotBuilder::ProcessBuilder& process_;
  std::map<std::string, uint32_t> ids_;
};

}  // namespace

std::shared_ptr<const Snapshot> snapshot_of_self(const SelfOptions& options) {
  ucontext_t context;
  getcontext(&context);
  return Self(options, context).build();
}

}  // namespace snapgdb::test
