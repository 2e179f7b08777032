#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/base/progress.h"
#include "core/image/image_writer.h"
#include "core/image/page_writer.h"
#include "core/linux/freezer.h"
#include "core/linux/terminal.h"
#include "core/resource/file_registry.h"
#include "core/resource/inet_sockets.h"
#include "core/resource/memory.h"

namespace snapgdb {

struct CaptureOptions {
  MemoryOptions memory;
  FreezeOptions freeze;
  WriteOptions write;
  NetworkOptions network;
  Progress* progress = nullptr;  // counts memory and files as they are read
};

// Why and where to look: what a debugger shows first.
struct Moment {
  std::string reason = "requested";
  Pid focus_pid = {};  // 0: the root
  Tid focus_tid = {};
};

struct CaptureReport {
  pb::SnapshotRecord record;
  size_t processes = 0, threads = 0, files = 0;
  uint64_t wall_ns = 0;
  // Of a tree that will be killed: connections to be prepared before, and what was taken out of
  // terminals, which goes back with this unless it is kept.
  InetSockets::Ends connections;
  std::vector<TakenQueues> terminals;
};

// Takes snapshots into one image.
class Capture {
 public:
  Capture(OutputFile out, CaptureOptions options);

  // Captures the trees below `roots`. `resume` is called once, as soon as the tree may run on: it
  // lets go of `tracees` in whatever way the caller wants. If this throws before that, the caller's
  // tracees are as freeze() left them.
  CaptureReport take(const std::vector<Pid>& roots, Tracees& tracees, const Moment& moment,
                     const std::function<void()>& resume);
  // Makes what was taken durable under its name.
  void commit() { image_.commit(); }

  uint64_t bytes_written() const { return image_.bytes_written(); }
  const std::string& path() const { return image_.path(); }

 private:
  CaptureOptions options_;
  ImageWriter image_;
  PageWriter pages_;
  FileRegistry files_;
};

}  // namespace snapgdb
