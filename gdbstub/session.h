#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "core/base/error.h"
#include "core/image/image_reader.h"
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
  // The client is gdb at the other end of a pipe of its own. Unless nothing is said aside, it makes
  // a system call for every byte it gets, and asks for far more of a file than it needs: a piece
  // costs it more than a request.
  bool piped = false;
  // With the other snapshots of the image, to go to; without it, there is only the one.
  std::shared_ptr<const Image> image = nullptr;
  // What makes the snapshot run; without it, it can only be looked at.
  Launcher launch = {};
  // On detaching, what runs goes on instead of being dropped.
  bool let_go = false;
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
  // Readable when on_event() may have something to send; -1: nothing runs that the client waits
  // for.
  int event_descriptor() const;
  // What has happened in the program since; returns what is to be sent to the client.
  std::string on_event();
  // What the program has written and the client cannot be sent. Leaves nothing.
  std::string take_aside();
  // Nothing will be said aside any more.
  bool has_no_aside() const { return state_.has_no_aside; }
  // gdb does not look for anything said aside any more: its pipe is as fast as a socket.
  void pipe_is_fast() { state_.file_piece = SIZE_MAX; }
  // The client has ended the conversation.
  bool finished() const { return state_.finished; }
  // notes(), and how to reach other processes. The protocol has no place for it. "" or whole lines.
  std::string greeting() const;

 private:
  std::string handle(const Incoming& incoming);
  std::string refuse(std::string_view why);
  std::string answer_packet(std::string_view payload);
  std::string interrupt();
  std::string console();
  std::string stop_all();
  std::string notify();
  std::string lose(const Error& error);

  Decoder decoder_;
  SessionState state_;
  // What was answered last, until the client acknowledges the answer: gdb sends a packet again if
  // it hears nothing for two seconds, which an image may take to open on a busy machine.
  std::string unacknowledged_;
};

}  // namespace snapgdb::gdbstub
