#pragma once

#include <cstdint>
#include <string>

#include "core/base/fd.h"

namespace snapgdb {

// A file that appears under its name, whole and synced, or not at all: it has no name until
// commit(), so that nothing is left behind even if we are killed. Mode 0600.
class OutputFile {
 public:
  // "-" is standard output; an existing device or FIFO is written to directly. Throws SystemError
  // if the directory cannot be written.
  static OutputFile create(const std::string& path);
  OutputFile(OutputFile&&) = default;
  OutputFile& operator=(OutputFile&&) = default;
  ~OutputFile();

  int fd() const { return fd_.get(); }
  const std::string& path() const { return path_; }
  // kLater leaves the disk to the kernel: for what can be made again from an image.
  enum class Sync { kNow, kLater };
  // Makes it durable and gives it its name, replacing a file of that name. May be called again
  // after more was written.
  void commit(Sync sync = Sync::kNow);

 private:
  OutputFile(std::string path, Fd fd) : path_(std::move(path)), fd_(std::move(fd)) {}
  void link_into_place();

  std::string path_;
  std::string temporary_;  // the name it has for now, where the file system cannot do without
  Fd fd_;
  bool in_place_ = false;  // has its name already, or will never have one
};

}  // namespace snapgdb
