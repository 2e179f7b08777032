#include <fmt/format.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "gdbstub/framing.h"
#include "gdbstub/handlers.h"
#include "gdbstub/link_map.h"
#include "gdbstub/run_control.h"
#include "gdbstub/system_data.h"
#include "gdbstub/target_description.h"
#include "gdbstub/thread_local.h"
#include "gdbstub/xml.h"

// qXfer:OBJECT:read:ANNEX:OFFSET,LENGTH. Each object is made whole when its first piece is asked
// for, and kept until another one is.
namespace snapgdb::gdbstub {
namespace {

struct Piece {
  std::string_view annex;
  uint64_t offset = 0;
  uint64_t size = 0;
};

Piece parse_piece(Scanner& arguments) {
  Piece piece;
  arguments.expect(':');
  piece.annex = arguments.until(':');
  piece.offset = arguments.hex();
  arguments.expect(',');
  piece.size = arguments.hex();
  arguments.expect_end();
  return piece;
}

// "m" and data: there is more; "l" and data: that was the last.
Reply send(const std::string& content, const Piece& piece) {
  if (piece.offset > content.size()) throw PacketError{kMalformed, "beyond the end"};
  const std::string_view rest = std::string_view(content).substr(piece.offset);
  const std::string_view wanted = rest.substr(0, piece.size);
  const std::string_view sent = wanted.substr(0, fitting(wanted, kPacketSize - 1));
  return (sent.size() < rest.size() ? "m" : "l") + std::string(sent);
}

using Make = std::string(SessionState& state, std::string_view annex);

Reply transfer(SessionState& state, std::string_view object, Scanner& arguments, Make* make) {
  const Piece piece = parse_piece(arguments);
  std::string key = fmt::format("{}:{}:{}", object, piece.annex, state.text(state.selected));
  if (piece.offset == 0 || state.document.key != key)
    state.document = {std::move(key), make(state, piece.annex)};
  return send(state.document.content, piece);
}

std::string present(std::optional<std::string> content, std::string_view what) {
  if (!content) throw PacketError{kNotThere, fmt::format("the snapshot has no {}", what)};
  return *std::move(content);
}

std::string executable(SessionState& state, std::string_view annex) {
  const Pid pid = annex.empty() ? state.selected_process() : Scanner(annex).pid();
  state.hint(pid);
  return present(state.target->executable(pid), "executable of that process");
}

std::string features(SessionState& state, std::string_view annex) {
  if (annex != "target.xml") throw PacketError{0, "there is only target.xml"};
  return target_description(state.target->layout());
}

// The linker's own, which gdb has too for what it finds by itself (the linker, in PT_INTERP) and
// which LibraryFiles knows as well. The file's, where that is no path from the root.
std::string name_of(const SessionState& state, const LoadedObject& object) {
  if (object.linker_name.starts_with('/')) return object.linker_name;
  const std::string mapped = mapped_name(*state.target, state.selected_process(), object);
  return mapped.empty() ? object.linker_name : mapped;
}

std::string library(const SessionState& state, const LoadedObject& object) {
  return fmt::format(
      "<library name=\"{}\" lm=\"{:#x}\" l_addr=\"{:#x}\" l_ld=\"{:#x}\" lmid=\"{:#x}\"/>\n",
      xml_text(name_of(state, object)), object.link_map, object.load_offset, object.dynamic,
      object.name_space);
}

// gdb wants the executable apart from the libraries; lldb learns of it only if it is among them.
std::string libraries(SessionState& state, std::string_view) {
  const Pid pid = state.selected_process();
  const std::vector<LoadedObject> objects = read_link_map(*state.target, pid);
  state.library_files.learn(*state.target, pid, objects);
  std::string out = R"(<library-list-svr4 version="1.0")";
  for (const LoadedObject& object : objects)
    if (object.executable) out += fmt::format(" main-lm=\"{:#x}\"", object.link_map);
  out += ">\n";
  for (const LoadedObject& object : objects)
    if (state.client.lldb || !object.executable) out += library(state, object);
  return out + "</library-list-svr4>\n";
}

// By which gdb's python knows a pthread_t: its bytes. "": it is not known.
std::string handle_of(const Target& target, ThreadId thread) try {
  const uint64_t pointer = thread_pointer(target, thread);
  return pointer ? to_hex(std::as_bytes(std::span(&pointer, 1))) : "";
} catch (const PacketError&) {
  return "";
} catch (const Error&) {  // it runs
  return "";
}

std::string threads(SessionState& state, std::string_view) {
  std::string out = "<?xml version=\"1.0\"?>\n<threads>\n";
  for (const Pid pid : state.attached)
    for (const Tid tid : state.target->threads(pid)) {
      const ThreadDescription about = state.target->describe({pid, tid});
      const std::string handle = handle_of(*state.target, {pid, tid});
      out += fmt::format("<thread id=\"{}\" core=\"{}\" name=\"{}\"{}/>\n", state.text({pid, tid}),
                         about.cpu, xml_text(about.name),
                         handle.empty() ? "" : fmt::format(" handle=\"{}\"", handle));
    }
  return out + "</threads>\n";
}

}  // namespace

Reply transfer_auxv(SessionState& state, Scanner arguments) {
  return transfer(state, "auxv", arguments, [](SessionState& s, std::string_view) {
    return present(s.target->auxv(s.selected_process()), "auxiliary vector");
  });
}

Reply transfer_executable(SessionState& state, Scanner arguments) {
  return transfer(state, "exec-file", arguments, executable);
}

Reply transfer_features(SessionState& state, Scanner arguments) {
  return transfer(state, "features", arguments, features);
}

Reply transfer_libraries(SessionState& state, Scanner arguments) {
  return transfer(state, "libraries", arguments, libraries);
}

Reply transfer_siginfo(SessionState& state, Scanner arguments) {
  note_call(state);
  return transfer(state, "siginfo", arguments, [](SessionState& s, std::string_view) {
    return present(s.target->siginfo(s.selected_thread()), "signal for that thread");
  });
}

// ANNEX:OFFSET:DATA, written all at once, or not at all.
Reply write_siginfo(SessionState& state, Scanner arguments) {
  arguments.expect(':');
  arguments.until(':');
  const uint64_t offset = arguments.hex();
  arguments.expect(':');
  const std::string_view data = arguments.take_rest();
  const ThreadId thread = state.selected_thread();
  auto siginfo = present(state.target->siginfo(thread), "signal for that thread");
  if (offset > siginfo.size() || data.size() > siginfo.size() - offset)
    throw PacketError{kMalformed, "a siginfo is not that long"};
  const std::string before = siginfo;
  siginfo.replace(offset, data.size(), data);
  if (!state.running.target && siginfo != before)
    throw PacketError{kCannot, "the signal of a snapshot cannot be changed"};
  if (state.running.target && !state.running.target->set_siginfo(thread, siginfo))
    throw PacketError{kCannot, "that thread takes no other signal"};
  return fmt::format("{:x}", data.size());
}

Reply transfer_system_data(SessionState& state, Scanner arguments) {
  return transfer(state, "osdata", arguments, [](SessionState& s, std::string_view annex) {
    const RunningTarget* runs = s.running.target.get();
    const auto ipc = [&] {
      return runs ? runs->ipc_objects() : ipc_objects_of(s.snapshot->record());
    };
    const auto table = runs ? system_data(runs->records(), ipc, annex)
                            : system_data(s.snapshot->processes(), ipc, annex);
    return table.value_or("");  // gdb wants nothing rather than an error
  });
}

Reply transfer_threads(SessionState& state, Scanner arguments) {
  return transfer(state, "threads", arguments, threads);
}

}  // namespace snapgdb::gdbstub
