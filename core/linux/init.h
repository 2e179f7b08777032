#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/base/fd.h"
#include "core/base/ids.h"
#include "core/linux/seed.h"

namespace snapgdb {

// What descriptors of the tree will be, in that order, and what is otherwise than asked for.
struct OpenedFiles {
  std::vector<Fd> files;
  std::vector<std::string> notes;
};

// A restored tree's first process, where it is the first of a pid namespace; a child of the keeper
// (keeper.h). It has a mount namespace of its own, since /proc is that of its pid namespace there,
// and at first a table of descriptors in common with the keeper. What the tree has open it opens
// itself: there it is known by its number.
class Init {
 public:
  struct Tasks {
    uint64_t seed_base = 0;  // of what is planted already
    // In the new mount namespace; returns what is otherwise than asked for.
    std::function<std::vector<std::string>()> make_mounts;
    std::function<OpenedFiles()> open_files;
  };

  // Returns when the mounts are made; `notes` gets what is otherwise there. Throws Error.
  Init(const Tasks& tasks, std::vector<std::string>& notes);

  pid_t pid() const { return pid_; }
  // What it has opened, while we do nothing else: who makes a socket in another's name cannot be
  // looked at meanwhile. Once.
  OpenedFiles open_files();
  // Sees the mounts that it sees.
  void enter_mounts() const;
  // It has all the descriptors that there are now, and becomes a seed.
  void go();
  void move_descriptors(int lowest);

 private:
  enum class Step { kMount, kOpen, kGo };
  // Common to both.
  struct Orders {
    std::atomic<Step> step = Step::kMount;
    // Where it is to say that it is parked: descriptors of the common table move meanwhile.
    int answer = -1;
  };

  void order(Step step);
  void await(Step step) const;
  [[noreturn]] void live(const Tasks& tasks);
  void say(const std::vector<std::string>& lines) const;
  void write(const std::string& text) const;
  void hear();
  std::optional<std::string> read_line();
  void read_lines(std::vector<std::string>& lines);

  Orders* orders_ = nullptr;
  PipeEnds answers_;
  std::string said_;  // and was not read yet
  Fd process_;
  pid_t pid_ = -1;
};

}  // namespace snapgdb
