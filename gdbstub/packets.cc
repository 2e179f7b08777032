#include "gdbstub/packets.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "gdbstub/framing.h"
#include "gdbstub/handlers.h"

namespace snapgdb::gdbstub {
namespace {

struct PacketRow {
  std::string_view name;
  std::string_view capability;  // as told in reply to qSupported; "": known without it
  Handler* handle;
};

// Every packet there is, in alphabetical order. A name of one letter, or of one after "_", may be
// followed by anything; a longer one ends where the packet ends or at one of ":;,".
constexpr PacketRow kPackets[] = {
    {"!", "", enable_extended_mode},
    {"?", "", stop_reason},
    {"C", "", continue_with_signal},
    {"D", "", detach_process},
    {"G", "", write_registers},
    {"H", "", select_thread},
    {"M", "", write_memory},
    {"P", "", write_register},
    {"QCatchSyscalls", "QCatchSyscalls+", catch_system_calls},
    {"QEnableErrorStrings", "native-signals+", enable_error_strings},  // both are lldb's
    {"QNonStop", "QNonStop+", choose_non_stop},
    {"QPassSignals", "QPassSignals+", pass_signals},
    {"QStartNoAckMode", "QStartNoAckMode+", start_no_ack_mode},
    {"QThreadEvents", "QThreadEvents+", choose_thread_events},
    {"QThreadOptions", "QThreadOptions=3", choose_thread_options},
    {"R", "", restart_program},
    {"S", "", step_with_signal},
    {"T", "", thread_is_alive},
    {"X", "", write_memory_binary},
    {"Z", "ConditionalBreakpoints+;BreakpointCommands+", insert_breakpoint},
    {"_M", "", allocate_memory},
    {"_m", "", release_memory},
    {"c", "", continue_thread},
    {"g", "", read_registers},
    {"jThreadsInfo", "", threads_info},
    {"k", "", kill_all},
    {"m", "", read_memory},
    {"p", "", read_register},
    {"qAttached", "", was_attached},
    {"qC", "", current_thread},
    {"qCRC", "", checksum_memory},
    {"qExecAndArgs", "", program_and_arguments},
    {"qGetTLSAddr", "", thread_local_variable},
    {"qHostInfo", "", host_info},
    {"qMemoryRegionInfo", "", memory_region},
    {"qProcessInfo", "", process_info},
    {"qRcmd", "", monitor_command},
    {"qSearch:memory", "", search_memory},
    {"qShlibInfoAddr", "", shared_library_info},
    {"qSupported", "", exchange_features},
    {"qSymbol", "", offer_symbols},
    {"qThreadExtraInfo", "", thread_label},
    {"qXfer:auxv:read", "qXfer:auxv:read+", transfer_auxv},
    {"qXfer:exec-file:read", "qXfer:exec-file:read+", transfer_executable},
    {"qXfer:features:read", "qXfer:features:read+", transfer_features},
    {"qXfer:libraries-svr4:read", "qXfer:libraries-svr4:read+", transfer_libraries},
    {"qXfer:osdata:read", "qXfer:osdata:read+", transfer_system_data},
    {"qXfer:siginfo:read", "qXfer:siginfo:read+", transfer_siginfo},
    {"qXfer:siginfo:write", "qXfer:siginfo:write+", write_siginfo},
    {"qXfer:threads:read", "qXfer:threads:read+", transfer_threads},
    {"qfThreadInfo", "", first_thread_ids},
    {"qsThreadInfo", "", more_thread_ids},
    {"s", "", step_thread},
    {"vAttach", "", attach_process},
    {"vCont", "vContSupported+", resume_threads},
    {"vCont?", "", resume_actions},
    {"vCtrlC", "", interrupt_program},
    {"vFile:close", "", file_close},
    {"vFile:fstat", "", file_fstat},
    {"vFile:lstat", "", file_stat},
    {"vFile:open", "", file_open},
    {"vFile:pread", "", file_pread},
    {"vFile:pwrite", "", file_refuse_write},
    {"vFile:readlink", "", file_readlink},
    {"vFile:setfs", "", file_setfs},
    {"vFile:stat", "", file_stat},
    {"vFile:unlink", "", file_refuse_write},
    {"vKill", "", kill_process},
    {"vRun", "", run_program},
    {"vStopped", "", next_notice},
    {"x", "binary-upload+", read_memory_binary},
    {"z", "", remove_breakpoint},
};

struct ClientFeature {
  std::string_view name;
  bool Client::*flag;
};

// Features that both sides must have: they are told back only to a client that named them.
constexpr ClientFeature kClientFeatures[] = {
    {"error-message+", &Client::error_message},    {"exec-events+", &Client::exec_events},
    {"fork-events+", &Client::fork_events},        {"hwbreak+", &Client::hwbreak},
    {"multiprocess+", &Client::multiprocess},      {"no-resumed+", &Client::no_resumed},
    {"single-inf-arg+", &Client::single_argument}, {"swbreak+", &Client::swbreak},
    {"vfork-events+", &Client::vfork_events},
};

bool is_named(std::string_view payload, std::string_view name) {
  if (!payload.starts_with(name)) return false;
  if (name.size() == 1 || name[0] == '_' || payload.size() == name.size()) return true;
  return std::string_view(":;,").find(payload[name.size()]) != std::string_view::npos;
}

// The longest name that fits.
const PacketRow* find_packet(std::string_view payload) {
  const PacketRow* best = nullptr;
  for (const PacketRow& row : kPackets)
    if (is_named(payload, row.name) && (!best || row.name.size() > best->name.size())) best = &row;
  return best;
}

}  // namespace

Reply exchange_features(SessionState& state, Scanner arguments) {
  arguments.skip(':');
  while (!arguments.at_end()) {
    const std::string_view named = arguments.until(';');
    for (const ClientFeature& feature : kClientFeatures)
      if (feature.name == named) state.client.*feature.flag = true;
  }
  std::string reply = fmt::format("PacketSize={:x}", kPacketSize);
  for (const ClientFeature& feature : kClientFeatures)
    if (state.client.*feature.flag) reply += fmt::format(";{}", feature.name);
  for (const PacketRow& row : kPackets)
    if (!row.capability.empty()) reply += fmt::format(";{}", row.capability);
  return reply;
}

std::string error_reply(const Client& client, int code, std::string_view text) {
  if (client.error_message) return fmt::format("E.{}", printable(text));
  const std::string number = fmt::format("E{:02x}", code & 0xff);
  return client.lldb ? fmt::format("{};{}", number, to_hex(text)) : number;
}

Reply answer(SessionState& state, std::string_view payload) {
  const PacketRow* row = find_packet(payload);
  if (!row) return "";
  constexpr int kDamagedImage = 5;
  try {
    return row->handle(state, Scanner(payload.substr(row->name.size())));
  } catch (const PacketError& error) {
    return error_reply(state.client, error.code, error.text);
  } catch (const Error& error) {
    return error_reply(state.client, kDamagedImage, error.what());
  }
}

}  // namespace snapgdb::gdbstub
