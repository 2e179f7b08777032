#include "gdbstub/session.h"

#include <fmt/format.h>

#include <utility>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "gdbstub/handlers.h"
#include "gdbstub/packets.h"
#include "gdbstub/run_control.h"
#include "gdbstub/stop_replies.h"

namespace snapgdb::gdbstub {

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
  state_.moment = std::make_unique<SnapshotTarget>(state_.snapshot);
  state_.target = state_.moment.get();
  state_.running.launch = options.launch;
  state_.running.let_go = options.let_go;
  state_.image = options.image;
  state_.sets_up_gdb = options.multi;
  state_.first = first_process(*state_.snapshot, options.pid);
  // Most reads are of a few bytes, or of all from there on: measured, half of what 8 KiB take.
  constexpr size_t kPieceInPipe = 1024;
  if (options.piped) state_.file_piece = kPieceInPipe;
  if (!options.multi) state_.attach(state_.first);
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
      // gdb has waited for two seconds. What carries us, pipes and sockets, loses nothing: it would
      // take a second reply for that to its next packet.
      return "";
    case Incoming::Kind::kDamaged:
      return state_.acknowledge ? "-" : refuse("the packet was damaged on its way");
    case Incoming::Kind::kOversize:
      return (state_.acknowledge ? "+" : "") + refuse("the packet is too long");
    case Incoming::Kind::kInterrupt:
      return interrupt();
    case Incoming::Kind::kAck:
      unacknowledged_.clear();
      return "";
  }
  return "";
}

std::string Session::refuse(std::string_view why) {
  constexpr int kInvalid = 22;
  return frame(error_reply(state_.client, kInvalid, why));
}

std::string Session::answer_packet(std::string_view payload) {
  std::string out = state_.acknowledge ? "+" : "";
  if (state_.acknowledge && payload == unacknowledged_) return out;
  unacknowledged_ = payload;
  const Reply reply = answer(state_, payload);
  out += console();
  if (!reply) return out + on_event();
  out += frame(*reply);
  return state_.running.non_stop && !state_.running.events.empty() ? out + notify() : out;
}

std::string Session::console() {
  std::string out;
  constexpr size_t kPiece = (kPacketSize - 1) / 2;
  for (std::string_view text = state_.console; !text.empty();) {
    const std::string_view piece = text.substr(0, kPiece);
    out += frame("O" + to_hex(piece));
    text.remove_prefix(piece.size());
  }
  state_.console.clear();
  return out;
}

int Session::event_descriptor() const {
  const Running& running = state_.running;
  const bool heard = running.waiting || running.non_stop;
  return running.target && heard ? running.target->event_descriptor() : -1;
}

std::string Session::on_event() {
  if (event_descriptor() < 0) return "";
  try {
    return state_.running.non_stop ? notify() : stop_all();
  } catch (const Error& error) {
    return lose(error);
  }
}

// Everything stands still before the client hears of it.
std::string Session::stop_all() {
  const auto reply = stop_at_event(state_);
  if (!reply) return console();
  state_.running.waiting = false;
  return console() + frame(*reply);
}

// One notification at a time: the client asks for those that follow.
std::string Session::notify() {
  Running& running = state_.running;
  const bool under_way = !running.notices.empty();
  if (running.target) state_.aside += running.target->take_output();
  while (const auto event = next_event(state_))
    if (const auto reply = tell_if_there(state_, *event))
      running.notices.push_back({*event, *reply});
  if (under_way || running.notices.empty()) return "";
  return frame_notification("Stop:" + running.notices.front().reply);
}

// What ran cannot be followed any more. The client waits for a stop, and gets one.
std::string Session::lose(const Error& error) {
  Running& running = state_.running;
  return_to_snapshot(state_);
  const std::string text =
      fmt::format("snapgdb: what ran is dropped, this is the snapshot again: {}\n", error.what());
  if (running.non_stop) {
    state_.aside += text;
    return notify();
  }
  if (state_.attached.empty()) return frame("N");
  state_.console += text;
  state_.select(state_.thread({}));  // gdb takes the thread of a stop for selected
  state_.chosen = true;
  const std::string reply = standing_reply(state_, state_.selected);
  return console() + frame(reply);
}

std::string Session::interrupt() {
  Running& running = state_.running;
  if (!running.waiting) {
    // lldb, which ends calls that take long by it, is content with any stop.
    running.interrupted = !running.non_stop && !state_.client.lldb;
    return "";
  }
  running.target->interrupt();
  return on_event();
}

std::string Session::take_aside() {
  return std::exchange(state_.aside, "");
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
