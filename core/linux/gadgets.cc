#include "core/linux/gadgets.h"

#include <sys/mman.h>

#include <algorithm>
#include <span>
#include <string_view>

#include "core/linux/remote_memory.h"

namespace snapgdb {
namespace {

constexpr std::string_view kSyscallReturn("\x0f\x05\xc3", 3);
constexpr std::string_view kSigreturns[] = {
    {"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05", 9},  // glibc
    {"\xb8\x0f\x00\x00\x00\x0f\x05", 7},          // musl, Go
};
constexpr size_t kMaxSearched = size_t{64} << 20;  // of one mapping

// What of it can be read, up to the first page that cannot.
std::string read_code(Tid tid, uint64_t address, size_t size) {
  std::string code(size, '\0');
  code.resize(read_remote(tid, address, std::as_writable_bytes(std::span(code))));
  return code;
}

std::optional<uint64_t> offset_of(std::string_view code, std::string_view pattern) {
  const size_t at = code.find(pattern);
  if (at == std::string_view::npos) return std::nullopt;
  return at;
}

}  // namespace

std::optional<Gadgets> GadgetFinder::find(Tid tid, const std::vector<ProcMapping>& mappings) {
  std::optional<uint64_t> syscall_return, sigreturn;
  for (const ProcMapping& mapping : mappings) {
    if (!(mapping.protection & PROT_EXEC) || mapping.inode == 0 || mapping.shared) continue;
    const Offsets& offsets = search(tid, mapping);
    if (!syscall_return && offsets.syscall_return)
      syscall_return = mapping.start + *offsets.syscall_return;
    if (!sigreturn && offsets.sigreturn) sigreturn = mapping.start + *offsets.sigreturn;
    if (syscall_return && sigreturn) return Gadgets{*syscall_return, *sigreturn};
  }
  return std::nullopt;
}

bool GadgetFinder::verify(Tid tid, const Gadgets& gadgets) {
  const auto stands = [tid](uint64_t address, std::string_view pattern) {
    return read_code(tid, address, pattern.size()) == pattern;
  };
  return stands(gadgets.syscall_return, kSyscallReturn) &&
         std::ranges::any_of(kSigreturns, [&](std::string_view pattern) {
           return stands(gadgets.sigreturn, pattern);
         });
}

const GadgetFinder::Offsets& GadgetFinder::search(Tid tid, const ProcMapping& mapping) {
  const Key key{mapping.device_major, mapping.device_minor, mapping.inode, mapping.offset};
  const auto [known, is_new] = known_.try_emplace(key);
  if (!is_new) return known->second;
  const std::string code =
      read_code(tid, mapping.start, std::min(mapping.end - mapping.start, kMaxSearched));
  known->second.syscall_return = offset_of(code, kSyscallReturn);
  for (const std::string_view pattern : kSigreturns)
    if (!known->second.sigreturn) known->second.sigreturn = offset_of(code, pattern);
  return known->second;
}

}  // namespace snapgdb
