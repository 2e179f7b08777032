#include <fmt/format.h>
#include <sys/mman.h>

#include <csignal>

#include "core/base/strings.h"
#include "gdbstub/handlers.h"
#include "gdbstub/link_map.h"
#include "gdbstub/stop_replies.h"

// What lldb asks beyond gdb's protocol (lldb's docs/lldb-gdb-remote.txt).
namespace snapgdb::gdbstub {
namespace {

constexpr std::string_view kTriple = "x86_64-unknown-linux-gnu";

std::string json_text(std::string_view text) {
  std::string out;
  for (const char c : printable(text)) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

std::string permissions(uint32_t protection) {
  std::string out;
  if (protection & PROT_READ) out += 'r';
  if (protection & PROT_WRITE) out += 'w';
  if (protection & PROT_EXEC) out += 'x';
  return out;
}

// Where there are several threads, lldb goes by this instead of the stop reply.
std::string told_reason(const Event& event) {
  const std::string_view reason = lldb_reason(event.kind);
  if (reason.empty()) return "";
  std::string out = fmt::format(R"(,"reason":"{}","signal":{})", reason,
                                event.kind == Event::Kind::kSignal ? event.signal : SIGTRAP);
  if (event.kind == Event::Kind::kWatchpoint)  // address, number of the register, address
    out += fmt::format(R"(,"description":"{0} 0 {0}")", event.value);
  return out;
}

}  // namespace

// Only lldb sends this, and before anything that depends on it.
Reply enable_error_strings(SessionState& state, Scanner) {
  state.client.lldb = true;
  return "OK";
}

Reply host_info(SessionState& state, Scanner) {
  const pb::Host& host = state.snapshot->record().host();
  return fmt::format(
      "triple:{};ptrsize:8;endian:little;hostname:{};os_version:{};", to_hex(kTriple),
      to_hex(host.node_name()),
      host.os_release().substr(0, host.os_release().find_first_not_of("0123456789.")));
}

Reply process_info(SessionState& state, Scanner) {
  const Pid pid = state.selected_process();
  const pb::Process* process = state.snapshot->process(pid.value);
  return fmt::format("pid:{:x};parent-pid:{:x};triple:{};ostype:linux;endian:little;ptrsize:8;",
                     pid.value, process ? process->parent() : 0, to_hex(kTriple));
}

// For the expressions of lldb, "_MSIZE,rwx": without it, lldb would have the program call mmap, and
// the snapshot run. Where it is, is for the moment to say, also while its tree runs: there it is
// found again after a restart.
Reply allocate_memory(SessionState& state, Scanner arguments) {
  const Pid pid = state.selected_process();
  const uint64_t size = arguments.hex();
  arguments.expect(',');
  uint32_t protection = PROT_NONE;
  for (const char letter : arguments.take_rest()) {
    if (letter == 'r') protection |= PROT_READ;
    if (letter == 'w') protection |= PROT_WRITE;
    if (letter == 'x') protection |= PROT_EXEC;
  }
  const auto made = state.moment->allocate(pid, size, protection);
  if (!made) throw PacketError{kNoMemory, "there is no room for that much memory"};
  if (state.running.target && !state.running.target->allocate(pid, *made)) {
    state.moment->release(pid, made->start);
    throw PacketError{kNoMemory, "the program cannot be given more memory now"};
  }
  return fmt::format("{:x}", made->start);
}

Reply release_memory(SessionState& state, Scanner arguments) {
  const Pid pid = state.selected_process();
  const auto mapping = state.moment->release(pid, arguments.hex());
  if (!mapping) throw PacketError{kNoMemory, "no memory was allocated there"};
  if (state.running.target && !state.running.target->release(pid, *mapping))
    throw PacketError{kNoMemory, "the program keeps that memory"};
  return "OK";
}

// The mapping that holds an address, or the gap around it.
Reply memory_region(SessionState& state, Scanner arguments) {
  arguments.expect(':');
  const uint64_t address = arguments.hex();
  const auto mapping = state.target->mapping_at_or_after(state.selected_process(), address);
  if (!mapping) return fmt::format("start:{:x};size:{:x};", address, UINT64_MAX - address);
  if (mapping->start > address)
    return fmt::format("start:{:x};size:{:x};", address, mapping->start - address);
  return fmt::format("start:{:x};size:{:x};permissions:{};name:{};", mapping->start,
                     mapping->end - mapping->start, permissions(mapping->protection),
                     to_hex(mapping->name));
}

// Where lldb, from version 18 on, begins its own walk along the list of the dynamic linker. Without
// it, it would take the first entry of the list for this.
Reply shared_library_info(SessionState& state, Scanner) {
  const Pid pid = state.selected_process();
  const auto slot = debug_slot(memory_of(*state.target, pid), state.target->auxv(pid).value_or(""));
  if (!slot) throw PacketError{kNotThere, "the program has no dynamic linker"};
  return fmt::format("{:x}", *slot);
}

Reply threads_info(SessionState& state, Scanner) {
  std::string out = "[";
  for (const Pid pid : state.attached)
    for (const Tid tid : state.target->threads(pid)) {
      const ThreadDescription about = state.target->describe({pid, tid});
      if (out.size() > 1) out += ",";
      out += fmt::format(R"({{"tid":{},"name":"{}")", tid.value, json_text(about.name));
      const auto& told = state.running.told;
      if (told && told->thread == ThreadId{pid, tid})
        out += told_reason(*told);
      else if (about.signal != 0)
        out += fmt::format(R"(,"reason":"signal","signal":{})", about.signal);
      out += "}";
    }
  return out + "]";
}

}  // namespace snapgdb::gdbstub
