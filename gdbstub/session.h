#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "core/image/snapshot.h"
#include "gdbstub/framing.h"
#include "gdbstub/session_state.h"

namespace snapgdb::gdbstub {

struct SessionOptions {
  // The process that the client finds itself attached to; without it, the one the snapshot was
  // taken for.
  std::optional<int32_t> pid;
  // The client finds no process, and attaches to those it wants (`target extended-remote`).
  bool multi = false;
};

// What a user should know about any snapshot at the beginning: the signal it was taken at, that
// something is missing. "" or whole lines.
std::string notes(const Snapshot& snapshot);

// One debugger's conversation with a snapshot: bytes in, bytes out.
class Session {
 public:
  // Throws Error if the process asked for is not in the snapshot or has nothing to show.
  explicit Session(std::shared_ptr<const Snapshot> snapshot, const SessionOptions& options = {});

  // What the client sent, cut anywhere; returns what is to be sent to it.
  std::string feed(std::string_view bytes);
  // The client has ended the conversation.
  bool finished() const { return state_.finished; }
  // notes(), and how to reach other processes. The protocol has no place for it. "" or whole lines.
  std::string greeting() const;

 private:
  std::string handle(const Incoming& incoming);
  std::string send(std::string_view payload);
  std::string refuse(std::string_view why);
  std::string answer_packet(std::string_view payload);

  Decoder decoder_;
  SessionState state_;
  std::string last_frame_;  // sent again if the client did not get it
  // What was answered last, until the client acknowledges the answer: gdb sends a packet again if
  // it hears nothing for two seconds, which an image may take to open on a busy machine.
  std::string unacknowledged_;
};

}  // namespace snapgdb::gdbstub
