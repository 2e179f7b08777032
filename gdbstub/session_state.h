#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/image/image_reader.h"
#include "core/image/snapshot.h"
#include "gdbstub/library_files.h"
#include "gdbstub/running_target.h"
#include "gdbstub/scanner.h"
#include "gdbstub/snapshot_target.h"
#include "gdbstub/target.h"

namespace snapgdb::gdbstub {

// What the client says it understands.
struct Client {
  bool multiprocess = false;
  bool error_message = false;  // error replies with text (gdb 16)
  bool swbreak = false, hwbreak = false;
  bool fork_events = false, vfork_events = false, exec_events = false;
  bool no_resumed = false;
  bool single_argument =
      false;              // of `run`: we look at none, since the program has long got its own
  bool extended = false;  // can attach to processes
  bool lldb = false;  // takes texts in its own form, and Linux's signal numbers instead of gdb's
};

// A document that a client fetches piece by piece.
struct Document {
  std::string key;
  std::string content;
};

// What the client wants of a program that runs. It outlives the tree: what is launched anew gets
// it.
struct Running {
  Launcher launch;                        // empty: nothing can run
  std::unique_ptr<RunningTarget> target;  // nullptr: there is only the snapshot
  std::map<Pid, std::vector<Breakpoint>> breakpoints;
  Wishes wishes;        // but for those that follow from what the client understands
  bool let_go = false;  // on detaching, instead of being dropped
  // Of the tree launched last, what was otherwise than in the snapshot; nullopt: none was.
  std::optional<std::vector<std::string>> notes;
  std::string input;  // for the terminal of what is launched next

  // A function call begins by asking for the signal of the thread, and writes arguments and
  // registers then: what was changed before that is what there is to come back to.
  std::optional<SnapshotTarget::Changes> before_call;
  bool in_call = false;      // the tree began with a call
  bool diversion = false;    // wanted: once a call is over, the client looks at the snapshot again
  bool is_diverted = false;  // the tree was launched so
  // The tree of a diversion that is over, and what the call has returned. For an argument that is a
  // string gdb calls malloc, writes to where it points, and calls the function itself then.
  std::unique_ptr<RunningTarget> over;
  uint64_t returned = 0;

  // Of threads at the moment that was left for the snapshot: a client passes on the signal at which
  // one has stopped, whatever comes between.
  std::map<ThreadId, int> former_signals;
  bool arrived = false;  // by `run`, at the snapshot; the next request to continue stays
  bool waiting = false;  // the client does, for a stop of what it has resumed
  // ^C came when everything stood still: it means what the client lets run next, since it did not
  // know of the stop, or is about to continue.
  bool interrupted = false;
  std::vector<ResumeAction> resumed;  // what it has resumed last
  std::deque<Event> events;           // asked for, and still to be told
  std::optional<Event> told;          // last
  // Both sides of the fork told last, until the client resumes something: it detaches from the one
  // that it does not follow, and that one is to run on. In non-stop mode, of all forks, each until
  // it is resumed by its number: meanwhile others fork and are resumed.
  std::set<Pid> forked;
  std::optional<Pid> parted_with;  // last; the one that `run` is to bring back

  // Non-stop: threads stop one by one, and the client is notified of each. The first of `notices`
  // is the one it has been told and has not confirmed.
  bool non_stop = false;
  struct Notice {
    Event event;
    std::string reply;
  };
  std::deque<Notice> notices;
  // Threads that stood still when it connected: it is notified of them once it has looked at the
  // one that it was told of then.
  std::vector<ThreadId> standing;
  // Those of which the client knows that they stand still; any other one it takes for running.
  std::set<ThreadId> known_to_stand;

  // What breakpoints are inserted in.
  RunningTarget* tree() const { return target ? target.get() : over.get(); }
};

// What a process executes: from which file, and where that and its linker were loaded.
struct Program {
  std::string path;
  uint64_t entry = 0, linker = 0;
  bool operator==(const Program&) const = default;
};
Program program_of(const Target& target, Pid pid);

// What both sides have agreed on and selected up to now.
struct SessionState {
  std::shared_ptr<const Image> image;  // with the other snapshots; nullptr: there is only this one
  std::shared_ptr<const Snapshot> snapshot;
  std::unique_ptr<SnapshotTarget> moment;  // the snapshot, with what the client has changed in it
  Running running;
  // What is looked at: the moment, or what came of it.
  Target* target = nullptr;

  Client client;
  bool acknowledge = true;
  bool finished = false;
  size_t file_piece = SIZE_MAX;  // bytes of a file that are sent at once, if the packet has room
  std::string console;           // text to be shown to the user before the next reply
  std::string aside;             // text for which the protocol has no place
  bool has_no_aside = false;     // the client wants all-stop mode, where there is one for all

  Pid first;                  // the process to be shown before any other
  std::vector<Pid> attached;  // in the order in which the client came to know them
  // Those that it came to know and that are not in the snapshot it looks at now. It goes on to know
  // them, and is attached to them again where a snapshot has them.
  std::vector<Pid> away;
  // What the client takes each process for that it came to know, still attached to or not: what it
  // was then, or what it has become by an execve(2) that the client was told of.
  std::map<Pid, Program> programs;
  bool sets_up_gdb = false;  // the client is the gdb of `snapgdb debug`, or set up like that
  // What m, g and the like are about. If the client chose it, perhaps one that is not there: it may
  // not look at the answer to its choice, and must get no other thread's values then.
  ThreadId selected;
  std::map<Pid, Tid> last_selected;  // of each process
  bool chosen = false;               // the client chose it, and relies on it
  ThreadPattern to_run;              // what it has chosen for c, C, s and S
  Pid files_seen_by;                 // whose view of the file system vFile means
  LibraryFiles library_files;
  std::map<uint64_t, std::unique_ptr<File>> open_files;
  Document document;

  bool is_attached(Pid pid) const;
  bool is_away(Pid pid) const;
  // Makes a process known to the client and selects it. Throws PacketError if it cannot be.
  void attach(Pid pid);
  void detach(Pid pid);
  // The process is there, and the client takes it for something else.
  bool is_mistaken(Pid pid) const;

  // The client is about to ask about this process, and has perhaps not chosen a thread of it.
  void hint(Pid pid);

  // Makes a thread the one that is meant from now on.
  void select(ThreadId thread);
  // The same, as the client wants it. Throws PacketError if there is none: nothing is answered of
  // another one from then on.
  void choose(const ThreadPattern& pattern);
  // The one thread that a pattern names, or of those that it may mean the one the client looked at
  // last; throws PacketError if there is none.
  ThreadId thread(const ThreadPattern& pattern) const;
  // The one that is selected, and its process. Throw PacketError if it is not there.
  ThreadId selected_thread() const;
  Pid selected_process() const;
  // All that a pattern may mean.
  std::vector<ThreadId> threads(const ThreadPattern& pattern) const;
  // "p1f.20" or "20".
  std::string text(ThreadId thread) const;
};

// The process that a client is shown before any other: the one that is wanted, or else the one that
// the snapshot was taken for. Throws Error if there is nothing of it to be shown.
Pid first_process(const Snapshot& snapshot, std::optional<int32_t> wanted);

}  // namespace snapgdb::gdbstub
