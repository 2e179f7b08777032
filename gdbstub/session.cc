#include "gdbstub/session.h"

#include <fmt/format.h>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "gdbstub/packets.h"
#include "gdbstub/snapshot_target.h"

namespace snapgdb::gdbstub {
namespace {

bool has_threads(const Snapshot& snapshot, int32_t pid) {
  const pb::Process* process = snapshot.process(pid);
  return process && process->threads_size() > 0;
}

std::string list_of_pids(const Snapshot& snapshot) {
  std::string out;
  for (const pb::Process& process : snapshot.processes())
    out +=
        fmt::format("{}{} ({})", out.empty() ? "" : ", ", process.pid(), printable(process.name()));
  return out;
}

Pid first_process(const Snapshot& snapshot, const SessionOptions& options) {
  const pb::SnapshotRecord& record = snapshot.record();
  const int32_t fallback =
      has_threads(snapshot, record.focus_pid()) ? record.focus_pid() : record.root_pid();
  const int32_t pid = options.pid.value_or(fallback);
  if (has_threads(snapshot, pid)) return Pid{pid};
  throw Error(fmt::format("cannot show process {}", pid),
              snapshot.process(pid) ? "nothing is left of it but its exit status"
                                    : "it is not in this snapshot",
              fmt::format("there are {}", list_of_pids(snapshot)));
}

}  // namespace

std::string notes(const Snapshot& snapshot) {
  const pb::SnapshotRecord& record = snapshot.record();
  std::string out;
  if (!record.reason().empty() && record.reason() != "requested")
    out += fmt::format("snapgdb: taken at {}\n", printable(record.reason()));
  if (const int missing = record.missing_size(); missing > 0)
    out += fmt::format("snapgdb: {} {} missing from the snapshot (`monitor missing`)\n", missing,
                       missing == 1 ? "thing is" : "things are");
  return out;
}

Session::Session(std::shared_ptr<const Snapshot> snapshot, const SessionOptions& options) {
  state_.snapshot = std::move(snapshot);
  state_.target = std::make_unique<SnapshotTarget>(state_.snapshot);
  if (!options.multi) state_.attach(first_process(*state_.snapshot, options));
}

std::string Session::feed(std::string_view bytes) {
  std::string out;
  for (const Incoming& incoming : decoder_.push(bytes))
    if (!state_.finished) out += handle(incoming);
  return out;
}

std::string Session::handle(const Incoming& incoming) {
  switch (incoming.kind) {
    case Incoming::Kind::kPacket:
      return answer_packet(incoming.payload);
    case Incoming::Kind::kNack:
      return last_frame_;
    case Incoming::Kind::kDamaged:
      return state_.acknowledge ? "-" : refuse("the packet was damaged on its way");
    case Incoming::Kind::kOversize:
      return (state_.acknowledge ? "+" : "") + refuse("the packet is too long");
    case Incoming::Kind::kAck:
      unacknowledged_.clear();
      return "";
    case Incoming::Kind::kInterrupt:  // nothing runs that could be interrupted
      return "";
  }
  return "";
}

std::string Session::send(std::string_view payload) {
  last_frame_ = frame(payload);
  return last_frame_;
}

std::string Session::refuse(std::string_view why) {
  constexpr int kInvalid = 22;
  return send(error_reply(state_.client, kInvalid, why));
}

std::string Session::answer_packet(std::string_view payload) {
  std::string out = state_.acknowledge ? "+" : "";
  if (state_.acknowledge && payload == unacknowledged_) return out;
  unacknowledged_ = payload;
  const Reply reply = answer(state_, payload);
  constexpr size_t kConsolePiece = (kPacketSize - 1) / 2;
  for (std::string_view text = state_.console; !text.empty();) {
    const std::string_view piece = text.substr(0, kConsolePiece);
    out += send("O" + to_hex(piece));
    text.remove_prefix(piece.size());
  }
  state_.console.clear();
  return reply ? out + send(*reply) : out;
}

std::string Session::greeting() const {
  std::string out;
  const auto processes = state_.snapshot->processes();
  if (!state_.attached.empty() && processes.size() > 1)
    out += fmt::format(
        "snapgdb: this is process {}, one of {} in the snapshot (`monitor ps`); for another one, "
        "--pid PID, for all of them, `snapgdb debug IMG`\n",
        state_.attached.front().value, processes.size());
  return out + notes(*state_.snapshot);
}

}  // namespace snapgdb::gdbstub
