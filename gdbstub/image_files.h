#pragma once

#include <memory>
#include <string>

#include "core/image/snapshot.h"
#include "gdbstub/target.h"

namespace snapgdb::gdbstub {

// The files a debugger may ask a snapshot for: executables, shared objects and debug files that are
// embedded in the image, and what /proc said of its processes.
class ImageFiles : public FileSystem {
 public:
  explicit ImageFiles(std::shared_ptr<const Snapshot> snapshot) : snapshot_(std::move(snapshot)) {}

  std::unique_ptr<File> open(Pid seen_by, std::string_view path) const override;
  std::optional<std::string> read_link(Pid seen_by, std::string_view path) const override;

 private:
  const pb::FileRecord* find(Pid seen_by, std::string_view path) const;
  const pb::FileRecord* mapped_by(Pid pid, std::string_view path) const;

  std::shared_ptr<const Snapshot> snapshot_;
};

}  // namespace snapgdb::gdbstub
