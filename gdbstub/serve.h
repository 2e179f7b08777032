#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "core/base/fd.h"
#include "core/image/image_reader.h"
#include "core/image/snapshot.h"
#include "gdbstub/session.h"

namespace snapgdb::gdbstub {

// Serves one client until it ends the conversation or goes away. Throws SystemError where reading
// or writing fails for another reason.
void serve(Session& session, int in_fd, int out_fd);

// The same on standard input and output, which is how gdb runs `target remote | snapgdb IMG`; gdb
// shows what is written to standard error. Returns the exit status. What `open` throws is thrown
// on.
int serve_stdio(const std::function<OpenedSnapshot()>& open, SessionOptions options = {});

// Where clients connect to.
class Listener {
 public:
  // "unix:PATH" or "tcp:HOST:PORT"; port 0 lets the system choose. Listens on that address only.
  // Throws Error for anything else, or if the address cannot be had.
  explicit Listener(std::string_view address);
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  ~Listener();

  // As a client has to name it: "unix:/run/x", "tcp:127.0.0.1:40123".
  const std::string& address() const { return address_; }
  int fd() const { return socket_.get(); }
  Fd accept() const;
  // Leaves it to another process, which has this object too, to remove the socket in the end.
  void disown();

 private:
  void listen_unix(const std::string& path);
  void listen_tcp(std::string_view host_and_port);

  Fd socket_;
  std::string address_;
  std::string path_;  // to be removed in the end
};

// Serves the client that connects next, from the snapshot as it is in the image, until it goes
// away.
void serve_next(std::shared_ptr<const Snapshot> snapshot, const SessionOptions& options,
                const Listener& listener);

// One client after the other. Does not return.
[[noreturn]] void serve_listener(std::shared_ptr<const Snapshot> snapshot,
                                 const SessionOptions& options, const Listener& listener);

}  // namespace snapgdb::gdbstub
