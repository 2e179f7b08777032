#pragma once

#include <functional>
#include <memory>
#include <string>

#include "gdbstub/target.h"

namespace snapgdb::gdbstub {

// The files as a process of a restored tree sees them, its own /proc included.
class LiveFiles : public FileSystem {
 public:
  // nullopt: there is no such process any more. The number is as we see it.
  using RealPid = std::function<std::optional<Pid>(Pid)>;
  explicit LiveFiles(RealPid real_pid) : real_pid_(std::move(real_pid)) {}

  std::unique_ptr<File> open(Pid seen_by, std::string_view path) const override;
  std::optional<std::string> read_link(Pid seen_by, std::string_view path) const override;

 private:
  RealPid real_pid_;
};

}  // namespace snapgdb::gdbstub
