// Control groups of its own, as root: one below another with settings, in version 2; one whose
// threads are in several; and, where it is mounted, one of version 1. Children are in them.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <vector>

#include "target.h"

namespace {

using target::expect_equal;
using target::setup;

std::string text_of(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// Of the hierarchy whose line begins so ("0::", "8:pids:"): its path.
std::string own_path(const std::string& file, const std::string& controllers) {
  std::istringstream lines(text_of(file));
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (line.substr(first + 1, second - first - 1) == controllers) return line.substr(second + 1);
  }
  return "";
}

// Where the hierarchy is mounted: "cgroup2", or "cgroup" with that controller. "": nowhere.
std::string mount_point(const std::string& type, const std::string& option) {
  std::istringstream lines(text_of("/proc/self/mounts"));
  for (std::string device, point, kind, options, rest; lines >> device >> point >> kind >> options;
       std::getline(lines, rest))
    if (kind == type && ("," + options + ",").find(option) != std::string::npos) return point;
  return "";
}

void write_to(const std::string& path, const std::string& text) {
  const int fd = open(path.c_str(), O_WRONLY);
  if (fd < 0 || write(fd, text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    target::cannot(path.c_str());
  close(fd);
}

class Group {
 public:
  // `point`: of its hierarchy; `path`: in it.
  Group(std::string point, std::string path) : point_(std::move(point)), path_(std::move(path)) {
    setup("mkdir", mkdir(directory().c_str(), 0755));
    target::say("cgroup %s", directory().c_str());
  }
  void set(const char* name, const char* value) {
    write_to(directory() + "/" + name, value);
    settings_.emplace_back(name, std::string(value) + "\n");
  }
  void join(const char* file, pid_t who) const {
    write_to(directory() + "/" + file, std::to_string(who));
  }
  std::string directory() const { return point_ + path_; }
  const std::string& path() const { return path_; }
  void check_and_remove() const {
    for (const auto& [name, value] : settings_)
      if (const std::string now = text_of(directory() + "/" + name); now != value)
        target::differs("%s of %s is %s", name.c_str(), path_.c_str(), now.c_str());
    for (int tries = 0; rmdir(directory().c_str()) != 0; target::sleep_ms(10))
      if (++tries > 500) return target::differs("%s cannot be removed", path_.c_str());
  }

 private:
  std::string point_, path_;
  std::vector<std::pair<std::string, std::string>> settings_;
};

// A child in some group, with a thread that may be in another.
pid_t start_child(target::Family& family, const std::string& controllers, const std::string& path,
                  const Group* of_thread, const std::function<void(pid_t)>& join) {
  const pid_t child = family.fork_child();
  if (child != 0) return child;
  join(getpid());
  std::atomic<bool> ends = false;
  target::Thread thread("other", [&] {
    while (!ends) target::sleep_ms(10);
  });
  if (of_thread) of_thread->join("cgroup.threads", thread.tid());
  const std::string file = "/proc/self/task/" + std::to_string(thread.tid()) + "/cgroup";
  family.announce_ready();
  family.wait_for_end_of_family();
  expect_equal("the cgroup of a child", own_path("/proc/self/cgroup", controllers) == path, true);
  expect_equal("that of a thread",
               own_path(file, controllers) == (of_thread ? of_thread->path() : path), true);
  ends = true;
  thread.join();
  _exit(target::verdict());
}

}  // namespace

int main() {
  target::prepare_end();
  const std::string unified = mount_point("cgroup2", ""), pids = mount_point("cgroup", ",pids,");
  if (unified.empty() || geteuid() != 0) {
    target::ready();
    target::wait_for_end();
    return 0;
  }
  target::Family family;
  const std::string here = own_path("/proc/self/cgroup", "");
  const std::string mine = (here == "/" ? "" : here) + "/snapgdb-" + std::to_string(getpid());
  Group outer(unified, mine), inner(unified, mine + "/inner"), domain(unified, mine + "-threads"),
      one(unified, mine + "-threads/one");
  outer.set("cgroup.max.depth", "3");
  outer.set("cgroup.max.descendants", "77");
  inner.set("cgroup.max.depth", "0");
  one.set("cgroup.type", "threaded");
  std::vector<pid_t> children{start_child(family, "", inner.path(), nullptr,
                                          [&](pid_t pid) { inner.join("cgroup.procs", pid); }),
                              start_child(family, "", domain.path(), &one,
                                          [&](pid_t pid) { domain.join("cgroup.procs", pid); })};
  std::vector<Group> others;
  if (!pids.empty()) {
    const std::string place = own_path("/proc/self/cgroup", "pids");
    Group& limited = others.emplace_back(
        pids, (place == "/" ? "" : place) + "/snapgdb-" + std::to_string(getpid()));
    limited.set("pids.max", "1234");
    children.push_back(start_child(family, "pids", limited.path(), nullptr,
                                   [&](pid_t pid) { limited.join("cgroup.procs", pid); }));
  }
  family.wait_for_announcements(static_cast<int>(children.size()));
  target::ready();
  target::wait_for_end();
  expect_equal("the first process's own", own_path("/proc/self/cgroup", "") == here, true);
  family.end();
  for (const pid_t child : children) target::expect_success_of(child);
  for (const Group* group : {&inner, &outer, &one, &domain}) group->check_and_remove();
  for (const Group& group : others) group.check_and_remove();
  return target::verdict();
}
