#include "core/linux/gadgets.h"

#include <sys/mman.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <span>
#include <string_view>

#include "core/linux/remote_memory.h"

namespace snapgdb {
namespace {

struct Pattern {
  uint64_t Gadgets::*gadget;
  std::string_view code;
};
constexpr Pattern kPatterns[] = {
    {&Gadgets::syscall_return, {"\x0f\x05\xc3", 3}},
    {&Gadgets::sigreturn, {"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05", 9}},  // glibc
    {&Gadgets::sigreturn, {"\xb8\x0f\x00\x00\x00\x0f\x05", 7}},          // musl, Go
    {&Gadgets::pop_rax, {"\x58\xc3", 2}},
    {&Gadgets::pop_rdi, {"\x5f\xc3", 2}},
    {&Gadgets::pop_rsi, {"\x5e\xc3", 2}},
    {&Gadgets::pop_rdx, {"\x5a\xc3", 2}},
    {&Gadgets::pop_rdx_rbx, {"\x5a\x5b\xc3", 3}},  // static programs of glibc's
    {&Gadgets::store_eax_at_rdx, {"\x89\x02\xc3", 3}},
};
constexpr size_t kLongest = 9;
constexpr size_t kMaxSearched = size_t{64} << 20;  // of one mapping

// What of it can be read, up to the first page that cannot.
std::string read_code(Tid tid, uint64_t address, size_t size) {
  std::string code(size, '\0');
  code.resize(read_remote(tid, address, std::as_writable_bytes(std::span(code))));
  return code;
}

}  // namespace

std::optional<Gadgets> GadgetFinder::find(Tid tid, const std::vector<ProcMapping>& mappings) {
  Gadgets gadgets;
  for (const ProcMapping& mapping : mappings) {
    if (!(mapping.protection & PROT_EXEC) || mapping.inode == 0 || mapping.shared) continue;
    const Gadgets& offsets = search(tid, mapping);
    for (const auto& [gadget, code] : kPatterns)
      if (gadgets.*gadget == 0 && offsets.*gadget != 0)
        gadgets.*gadget = mapping.start + offsets.*gadget - 1;
    if (gadgets.can_chain()) break;
  }
  return gadgets.suffice() ? std::optional(gadgets) : std::nullopt;
}

bool GadgetFinder::verify(Tid tid, const Gadgets& gadgets) {
  // All in one call: each form of each gadget, as it would be there.
  std::array<std::array<char, kLongest>, std::size(kPatterns)> code{};
  std::array<iovec, std::size(kPatterns)> local{}, remote{};
  size_t size = 0;
  for (size_t i = 0; i < code.size(); ++i) {
    const uint64_t address = gadgets.*kPatterns[i].gadget;
    const size_t length = address ? kPatterns[i].code.size() : 0;
    local[i] = {code[i].data(), length};
    remote[i] = {reinterpret_cast<void*>(address), length};
    size += length;
  }
  const ssize_t n =
      ::process_vm_readv(tid.value, local.data(), local.size(), remote.data(), remote.size(), 0);
  if (n != static_cast<ssize_t>(size)) return false;
  const auto stands = [&](const Pattern& form) {
    const auto& there = code[static_cast<size_t>(&form - kPatterns)];
    return std::string_view(there.data(), form.code.size()) == form.code;
  };
  return std::ranges::all_of(kPatterns, [&](const Pattern& any) {
    return gadgets.*any.gadget == 0 || std::ranges::any_of(kPatterns, [&](const Pattern& form) {
             return form.gadget == any.gadget && stands(form);
           });
  });
}

const Gadgets& GadgetFinder::search(Tid tid, const ProcMapping& mapping) {
  const Key key{mapping.device_major, mapping.device_minor, mapping.inode, mapping.offset};
  const auto [known, is_new] = known_.try_emplace(key);
  if (!is_new) return known->second;
  const std::string code =
      read_code(tid, mapping.start, std::min(mapping.end - mapping.start, kMaxSearched));
  for (const auto& [gadget, pattern] : kPatterns)
    if (const size_t at = code.find(pattern); at != code.npos && known->second.*gadget == 0)
      known->second.*gadget = at + 1;
  return known->second;
}

}  // namespace snapgdb
