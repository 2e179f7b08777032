#pragma once

#include <functional>
#include <memory>
#include <string>

#include "gdbstub/target.h"

namespace snapgdb::gdbstub {

// The files as a process of a restored tree sees them, its own /proc included.
class LiveFiles : public FileSystem {
 public:
  // A task of a process that has its memory and its root directory still: the first one, unless
  // that has exited alone. `real`: its number as we see it; `tid`: as the tree does.
  struct LivingTask {
    Pid real;
    Tid tid;
  };
  // nullopt: there is no such process any more.
  using TaskOf = std::function<std::optional<LivingTask>(Pid)>;
  explicit LiveFiles(TaskOf task_of) : task_of_(std::move(task_of)) {}

  std::unique_ptr<File> open(Pid seen_by, std::string_view path) const override;
  std::optional<std::string> read_link(Pid seen_by, std::string_view path) const override;

 private:
  TaskOf task_of_;
};

}  // namespace snapgdb::gdbstub
