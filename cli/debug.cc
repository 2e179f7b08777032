#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/image_options.h"
#include "cli/words_option.h"
#include "core/base/error.h"
#include "core/base/fd.h"
#include "core/base/say.h"
#include "gdbstub/background.h"
#include "gdbstub/live/launch.h"

namespace snapgdb::cli {
namespace {

struct Arguments {
  std::string image;
  std::vector<std::string> gdb;
  OpenOptions open;
};

// Of what is a zombie only the exit status is left.
std::vector<int32_t> shown_processes(const Snapshot& snapshot) {
  std::vector<int32_t> pids;
  for (const pb::Process& process : snapshot.processes())
    if (process.address_space() != 0 && process.threads_size() > 0) pids.push_back(process.pid());
  return pids;
}

size_t focused(const std::vector<int32_t>& pids, const Snapshot& snapshot) {
  for (const int32_t wanted : {snapshot.record().focus_pid(), snapshot.record().root_pid()})
    for (size_t i = 0; i < pids.size(); ++i)
      if (pids[i] == wanted) return i;
  return 0;
}

// Inferiors are numbered as the tree is listed. The one in focus is attached to last: gdb then
// shows the thread that the snapshot was taken for, and no other command needs to select it.
std::string attach_all(const std::vector<int32_t>& pids, size_t focus, const std::string& socket) {
  std::string out = fmt::format("target extended-remote {}\n", socket);
  for (size_t i = 1; i < pids.size(); ++i) out += "add-inferior\n";
  const auto attach = [&](size_t i) {
    out += fmt::format("inferior {}\nattach {}\n", i + 1, pids[i]);
  };
  for (size_t i = 0; i < pids.size(); ++i)
    if (i != focus) attach(i);
  attach(focus);
  return out;
}

// The thread that the user looked at may not be there any more: then another one of its process, or
// of any, is selected. Where none has a $pc, which is an error that ends its consideration, none
// is.
//
// gdb keeps what it has read over a command of the stub's, so that it has to be told to look again:
// at memory and libraries for each process, before it reads any for registers that it still knows.
// Of threads that are gone it learns when it goes through all. Attaching to a process again, it
// takes it for the program that it knew it by.
//
// The exit status of `! grep` is what `if` understands in every language. gdb's own `restart` is
// about checkpoints, which a remote target does not have; it asks back before it is redefined.
constexpr std::string_view kCommands =
    "set $snapgdb_confirm = $_gdb_setting(\"confirm\")\n"
    "set confirm off\n"
    "define snapgdb-consider\n"
    "if $pc == $pc\n"
    "set $snapgdb_this = 1 + ($_inferior == $snapgdb_here) + ($_gthread == $snapgdb_was)\n"
    "if $snapgdb_rank <= $snapgdb_this\n"
    "set $snapgdb_rank = $snapgdb_this\n"
    "set $snapgdb_inferior = $_inferior\n"
    "set $snapgdb_thread = $_thread\n"
    "end\n"
    "end\n"
    "end\n"
    "document snapgdb-consider\n"
    "Note this thread if there is no better one to be shown (for snapgdb-look-again).\n"
    "end\n"
    "define snapgdb-note-place\n"
    "set $snapgdb_here = $_inferior\n"
    "set $snapgdb_was = $_gthread\n"
    "set $snapgdb_rank = 0\n"
    "set $snapgdb_forgotten = 0\n"
    "end\n"
    "document snapgdb-note-place\n"
    "Note what is looked at (for snapgdb-look-again).\n"
    "end\n"
    "define snapgdb-note-attached\n"
    "if $_inferior == $snapgdb_here\n"
    "set $snapgdb_was = $_gthread\n"
    "end\n"
    "end\n"
    "document snapgdb-note-attached\n"
    "Note a process that was attached to again (for snapgdb-look-again).\n"
    "end\n"
    "define snapgdb-renew\n"
    "pipe monitor again | ! grep -q '^$arg1: detach'\n"
    "if $_shell_exitcode\n"
    "pipe info inferiors $arg0 | ! grep -q 'process $arg1 '\n"
    "if $_shell_exitcode\n"
    "detach inferiors $arg0\n"
    "end\n"
    "end\n"
    "pipe monitor again | ! grep -q '^$arg1: attach'\n"
    "if $_shell_exitcode\n"
    "pipe info inferiors $arg0 | ! grep -q '<null>'\n"
    "if $_shell_exitcode\n"
    "inferior $arg0\n"
    "pipe monitor again | ! grep -q '^$arg1: .*program'\n"
    "if $_shell_exitcode\n"
    "with confirm off -- file\n"
    "end\n"
    "attach $arg1\n"
    "with language c -- snapgdb-note-attached\n"
    "end\n"
    "end\n"
    "end\n"
    "document snapgdb-renew\n"
    "snapgdb-renew INFERIOR PID: detach from it where it is not there, and attach to it where it "
    "is.\n"
    "end\n"
    "define snapgdb-forget\n"
    "if $_inferior != $snapgdb_forgotten\n"
    "set $snapgdb_forgotten = $_inferior\n"
    "maintenance flush dcache\n"
    "info sharedlibrary\n"
    "end\n"
    "end\n"
    "document snapgdb-forget\n"
    "Forget what was read of this process (for snapgdb-look-again).\n"
    "end\n"
    "define snapgdb-find-thread\n"
    "thread apply all -q -s snapgdb-consider\n"
    "set $snapgdb_stays = $snapgdb_rank == 3 && $_gthread == $snapgdb_was\n"
    "end\n"
    "document snapgdb-find-thread\n"
    "Find the thread to be shown next (for snapgdb-look-again).\n"
    "end\n"
    "define snapgdb-look-again\n"
    "with language c -- snapgdb-note-place\n"
    "pipe snapgdb-renew-all | cat >/dev/null\n"
    "pipe with language c -- thread apply all -q -s snapgdb-forget | cat >/dev/null\n"
    "maintenance flush register-cache\n"
    "info threads\n"
    "pipe with language c -- snapgdb-find-thread | cat >/dev/null\n"
    "if $snapgdb_stays\n"
    "frame\n"
    "else\n"
    "if $snapgdb_rank\n"
    "thread $snapgdb_inferior.$snapgdb_thread\n"
    "end\n"
    "end\n"
    "end\n"
    "document snapgdb-look-again\n"
    "Forget what was read of the program, and show where it is.\n"
    "end\n"
    "define restart\n"
    "monitor restart\n"
    "snapgdb-look-again\n"
    "end\n"
    "document restart\n"
    "Drop what runs, and look at the snapshot again.\n"
    "end\n"
    "define goto\n"
    "monitor goto $arg0\n"
    "snapgdb-look-again\n"
    "end\n"
    "document goto\n"
    "goto K: look at the K-th snapshot of the image (monitor snapshots lists them).\n"
    "end\n"
    "if $snapgdb_confirm\n"
    "set confirm on\n"
    "end\n";

// Most of the time there is nothing to be done, and that is cheap.
std::string renew_all(const std::vector<int32_t>& pids) {
  std::string out =
      "define snapgdb-renew-all\n"
      "pipe monitor again | ! grep -q .\n"
      "if $_shell_exitcode\n";
  for (size_t i = 0; i < pids.size(); ++i)
    out += fmt::format("snapgdb-renew {} {}\n", i + 1, pids[i]);
  return out +
         "end\n"
         "end\n"
         "document snapgdb-renew-all\n"
         "Attach again to what has ended, or become another program (for snapgdb-look-again).\n"
         "end\n";
}

// Setting up says a lot that nobody needs, so it is done into a pipe; errors are shown all the
// same. One read for the end of a stack instead of four; and what gdb has to put back after a
// function call that could not run.
std::string setup_script(const std::vector<int32_t>& pids, const std::string& attaching) {
  return std::string(kCommands) + renew_all(pids) + "define snapgdb-setup\n" + attaching +
         "end\n"
         "document snapgdb-setup\n"
         "Attach to every process of the snapshot (done by snapgdb debug).\n"
         "end\n"
         "set dcache line-size 512\n"
         "set unwindonsignal on\n"
         "set print thread-events off\n"
         "set suppress-cli-notifications on\n"
         "pipe snapgdb-setup | cat >/dev/null\n"
         "set suppress-cli-notifications off\n"
         "set print thread-events on\n"
         "frame\n";
}

// gdb reads the script through a descriptor it inherits: nothing to be removed later.
std::string inherited_script(const std::string& script) {
  Fd file = memory_file("snapgdb-setup", script);
  if (fcntl(file.get(), F_SETFD, 0) != 0) throw_errno("cannot pass commands to gdb");
  return fmt::format("/proc/self/fd/{}", file.release());
}

[[noreturn]] void run_gdb(const std::string& script_path, const std::vector<std::string>& more) {
  std::vector<std::string> words = {"gdb", "-q", "-x", script_path};
  words.insert(words.end(), more.begin(), more.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  execvp("gdb", argv.data());
  throw SystemError("cannot run gdb", errno, "install gdb, version 13 or later");
}

int debug(const Arguments& arguments) {
  const auto [image, snapshot] = open_with_image(arguments.image, arguments.open);
  const std::vector<int32_t> pids = shown_processes(*snapshot);
  if (pids.empty())
    throw Error(fmt::format("cannot debug {}", arguments.image), "none of its processes is alive");
  const size_t focus = focused(pids, *snapshot);
  if (pids.size() > 1)
    say("snapgdb: {} processes, inferiors 1 to {}; `info inferiors` lists them\n", pids.size(),
        pids.size());
  if (const size_t left_out = snapshot->processes().size() - pids.size(); left_out > 0)
    say("snapgdb: {} not shown: nothing is left but the exit status\n", left_out);
  say("{}", gdbstub::notes(*snapshot));
  const std::string socket = gdbstub::serve_in_background(
      snapshot, {.multi = true, .image = image, .launch = gdbstub::launch});
  run_gdb(inherited_script(setup_script(pids, attach_all(pids, focus, socket))), arguments.gdb);
}

Action define(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  app.add_option("IMG", arguments->image, "the image, or IMG@K for its K-th snapshot")->required();
  add_open_options(app, arguments->open);
  add_words(app, "GDB_ARGS", arguments->gdb, "after --: more arguments for gdb");
  return [arguments] { return debug(*arguments); };
}

}  // namespace

const Command kDebugCommand = {"debug", "Start gdb with every process as an inferior", define};

}  // namespace snapgdb::cli
