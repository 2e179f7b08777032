#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/base/fd.h"
#include "core/base/ids.h"
#include "core/linux/init.h"
#include "core/linux/ipc_settings.h"
#include "core/linux/namespaces.h"
#include "core/linux/sandbox.h"
#include "core/linux/seed.h"

namespace snapgdb {

// The process below which a restored tree lives: it opens the tree's files (or has the first
// process do so, where that is number 1) and bears its first process. It dies with us, and the tree
// with it, until it is told to let go.
class Keeper {
 public:
  struct Options {
    bool own_pids = false;     // a pid namespace (and /proc) of the tree's own
    bool own_cgroups = false;  // a cgroup namespace
    // Before it is made: it begins where its maker is.
    std::function<void(Pid keeper)> put_into_cgroups = {};
    bool own_user = false;  // and a user namespace, for who may not make the other otherwise
    int32_t root_pid = 0;   // the number of the first process; 1: the init of a pid namespace
    uint64_t seed_base = 0;
    int file_base = 0;
    // Users and groups of the own user namespace: these; if there are none, all of ours under
    // their own numbers. Where we may not give those, only ourselves. `user`, `group`: as whom the
    // keeper acts inside (UINT32_MAX: as nobody whom it knows), and we are called there.
    struct Range {
      uint32_t inside, outside, count;
    };
    std::vector<Range> users = {}, groups = {};
    bool deny_setgroups = false;
    uint32_t user = 0, group = 0;
    // An ipc namespace of the tree's own, with our limits; called in the keeper when it is in it,
    // and still sees /proc as we do.
    std::function<void()> enter_ipc = {};
    IpcSettings ipc_settings = {};  // its limits, where they are not ours
    // A mount namespace of the tree's own: called in it, by a process that is in all others of the
    // tree's; returns what is otherwise than it was.
    std::function<std::vector<std::string>()> make_mounts = {};
    // The same for the links of a network namespace. `outside`: the one that we are in.
    std::function<std::vector<std::string>(const Fd& outside)> make_network = {};
    std::optional<HostNames> names = std::nullopt;  // of its own uts namespace
    // Namespaces below those of the tree, and the rest of its network: called in the keeper when it
    // is in all but those of mounts and clocks, and still sees /proc as we do; returns what is
    // otherwise than it was.
    std::function<std::vector<std::string>()> make_spaces = {};
    // A network (with a loopback device only) of the tree's own, and files as they are, but for
    // what is written to them.
    std::optional<Sandbox::Options> sandbox = std::nullopt;
    // What the tree wrote goes to a directory of that name in this one, which was opened; nowhere,
    // if it is not valid.
    int save_in = -1;
    std::string save_as = {};
    // What the tree's clocks shall show now (CLOCK_MONOTONIC, CLOCK_BOOTTIME); 0: as they are.
    int64_t monotonic_ns = 0, boottime_ns = 0;
    ClockOffsets our_clocks = {};  // of who restores
  };
  // Runs in the keeper, or in a first process that is number 1, whose memory the keeper does not
  // see; the caller's objects are never destroyed there. Returns what descriptors from file_base on
  // will be, and what is otherwise than asked for. nullptr: no sandbox.
  using OpenFiles = std::function<OpenedFiles(const Sandbox*)>;
  // Throws Error, also what `open_files` throws.
  Keeper(const Options& options, const OpenFiles& open_files);
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;
  ~Keeper();

  Tid tid() const { return Tid{pid_.value}; }
  // What is otherwise than asked for.
  const std::vector<std::string>& notes() const { return notes_; }
  // The first process of the tree, a seed. Once.
  Seed take_root();
  // From now on the tree runs, but not without us: the keeper has nothing open any more whose end
  // somebody might wait for, and reaps. Once, and before let_go().
  void let_run();
  // From now on the tree lives without us. Who goes away leaves the keeper a session of its own, so
  // that it, and with it a tree with numbers of its own, does not end with our process group: with
  // a job of a shell, or what timeout(1) or a test runner ends.
  enum class We { kWait, kGo };
  void let_go(We what);
  // Waits for the first process's end. `when_it_stops`: each time it is stopped (wait(2)).
  struct End {
    int status = 0;         // as wait(2) gives it
    size_t files = 0;       // written or removed in the sandbox until then, and saved
    std::string not_saved;  // "", or why they are lost
  };
  End wait(const std::function<void()>& when_it_stops);

 private:
  void order(char what);

  Pid pid_;
  Fd report_, control_;
  uint64_t seed_base_;
  std::vector<std::string> notes_;
  bool holds_ = true;
  bool stays_ = false;  // as long as anybody of the tree, whose init it is
};

}  // namespace snapgdb
