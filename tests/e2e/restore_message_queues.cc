// snapgdb restore: POSIX message queues.

#include <fcntl.h>
#include <mqueue.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <set>

#include "tests/e2e/restoring.h"

namespace snapgdb::e2e {
namespace {

// The names that one has said; what is left of them goes when the test ends.
struct Queues {
  explicit Queues(const Target& target) : names(target.said("mq")) {}
  Queues(const Queues&) = delete;
  Queues& operator=(const Queues&) = delete;
  ~Queues() { remove(); }

  void remove() const {
    for (const std::string& name : names) mq_unlink(name.c_str());
  }
  size_t count() const {
    size_t count = 0;
    for (const std::string& name : std::set<std::string>(names.begin(), names.end())) {
      const mqd_t queue = mq_open(name.c_str(), O_RDONLY);
      if (queue < 0) continue;
      ++count;
      mq_close(queue);
    }
    return count;
  }

  Words names;
};
constexpr size_t kNamed = 6;

// Captured and killed.
struct Taken : TakenAway {
  explicit Taken(std::optional<uid_t> by = {})
      : TakenAway("message_queues", {}, {.user = by}), queues(target) {
    take();
  }

  Queues queues;
};

TEST_CASE("message queues that are gone are made again, with their messages and who is told") {
  const Taken taken;
  CHECK(taken.queues.count() == kNamed);
  for (int round = 0; round < 2; ++round) {
    taken.queues.remove();
    taken.check_runs_again();
    CHECK(taken.queues.count() == 0);
  }
}

TEST_CASE("message queues that are still there are used as they are") {
  const Taken taken;
  taken.check_runs_again();
  CHECK(taken.queues.count() == 0);
}

TEST_CASE("an isolated tree has message queues of its own") {
  const Taken taken;
  for (int round = 0; round < 2; ++round) {
    taken.check_runs_again({"--isolated"});
    CHECK(taken.queues.count() == kNamed);
  }
}

TEST_CASE("an ordinary user's message queues come back, also in isolation") {
  if (skip_unless(geteuid() == 0, "to become an ordinary user, one must be root")) return;
  const Taken taken(kNobody);
  taken.check_runs_again({"--isolated"});
  CHECK(taken.queues.count() == kNamed);
  taken.queues.remove();
  taken.check_runs_again();
}

TEST_CASE("a tree with message queues is captured while it runs, and does not notice") {
  const TempDir directory;
  Target target("message_queues");
  const Result captured =
      snapgdb({"capture", std::to_string(target.pid()), "-o", directory / "image"});
  INFO(captured);
  CHECK(captured.status == 3);
  CHECK(contains(captured.err, "10 messages, which cannot be read without taking them away"));
  const Result end = target.finish();
  INFO(end);
  CHECK(end.ok());
}

TEST_CASE("messages of a queue that others have open, too, are left alone") {
  const TempDir directory;
  Target target("message_queues");
  const Queues queues(target);
  const mqd_t full = mq_open(queues.names.front().c_str(), O_RDONLY | O_NONBLOCK);
  REQUIRE(full >= 0);
  const Result captured =
      snapgdb({"capture", std::to_string(target.pid()), "-o", directory / "image", "--kill"});
  INFO(captured);
  CHECK(contains(captured.err, "which processes outside of the tree could miss"));
  mq_attr now{};
  CHECK(mq_getattr(full, &now) == 0);
  CHECK(now.mq_curmsgs == 10);
  mq_close(full);
}

void check_unopened(const Words& first, std::optional<uid_t> user) {
  const TempDir directory;
  std::filesystem::permissions(directory.path(), std::filesystem::perms::all);
  Words command = first;
  command.insert(command.end(),
                 {"python3", "-c",
                  "import ctypes, os, sys\n"
                  "rt = ctypes.CDLL('librt.so.1', use_errno=True)\n"
                  "kept, closed = (rt.mq_open(name, os.O_CREAT | os.O_RDWR, 0o600, None)\n"
                  "                for name in (b'/kept', b'/closed'))\n"
                  "os.close(closed); print('ready', flush=True); sys.stdin.read()\n"});
  Running python(command, {.input = RunOptions::kPipe, .user = user});
  python.wait_for_line("ready");
  const Result captured =
      snapgdb({"capture", std::to_string(python.pid()), "-o", directory / "image"}, {.user = user});
  INFO(captured);
  CHECK(captured.status == 3);
  CHECK(contains(captured.err, "message queue /closed of"));
  CHECK(contains(captured.err, "nobody has it open"));
  CHECK_FALSE(contains(captured.err, "/kept"));
}

TEST_CASE("queues in an ipc namespace of the tree's own that nobody has open are named") {
  if (geteuid() == 0) check_unopened({"unshare", "-i"}, std::nullopt);
  if (geteuid() == 0) check_unopened({"unshare", "-Uri"}, kNobody);
  check_unopened({"unshare", "-Uri"}, std::nullopt);
}

TEST_CASE("a message queue that has the name of one of another size is in the way") {
  const Taken taken;
  taken.queues.remove();
  mq_attr other{};
  other.mq_maxmsg = 1, other.mq_msgsize = 1;
  const std::string& name = taken.queues.names.front();
  const mqd_t queue = mq_open(name.c_str(), O_CREAT | O_EXCL | O_RDWR, 0600, &other);
  REQUIRE(queue >= 0);
  const Result refused = run_again(taken.image);
  INFO(refused);
  CHECK(refused.status == 1);
  CHECK(contains(refused.err, name + ": another one has its name now"));
  CHECK(taken.queues.count() == 1);
  mq_close(queue);
  taken.check_runs_again({"--isolated"});
}

}  // namespace
}  // namespace snapgdb::e2e
