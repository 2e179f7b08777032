#pragma once

#include <map>
#include <memory>
#include <string>

#include "core/image/snapshot.h"
#include "gdbstub/target.h"

namespace snapgdb::gdbstub {

// The files a debugger may ask a snapshot for: executables, shared objects and debug files that are
// embedded in the image, and what /proc said of its processes.
class ImageFiles : public FileSystem {
 public:
  // `target` must outlive this; only its memory is read, to follow the dynamic linker's names.
  ImageFiles(std::shared_ptr<const Snapshot> snapshot, const Target& target)
      : snapshot_(std::move(snapshot)), target_(target) {}

  std::unique_ptr<File> open(Pid seen_by, std::string_view path) const override;
  std::optional<std::string> read_link(Pid seen_by, std::string_view path) const override;

 private:
  using Aliases = std::map<std::string, std::string, std::less<>>;

  const pb::FileRecord* find(Pid seen_by, std::string_view path) const;
  const pb::FileRecord* mapped_by(Pid pid, std::string_view path) const;
  const Aliases& aliases(Pid pid) const;

  std::shared_ptr<const Snapshot> snapshot_;
  const Target& target_;
  mutable std::map<Pid, Aliases> aliases_;  // filled when first asked for
};

}  // namespace snapgdb::gdbstub
