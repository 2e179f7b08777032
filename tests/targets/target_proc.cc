// What /proc tells a target of itself.

#include <dirent.h>
#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <set>
#include <sstream>
#include <vector>

#include "target.h"

namespace target {
namespace {

// The heap gets its final size at the start, lest allocations change the mappings later.
[[maybe_unused]] const bool heap_is_steady = [] {
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 8 << 20);
  free(malloc(1 << 20));
  return true;
}();

void append_file(std::string& text, const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  char buffer[4096];
  ssize_t length;
  while ((length = read(fd, buffer, sizeof buffer)) > 0) text.append(buffer, length);
  close(fd);
}

std::vector<int> numbers_in(const char* directory) {
  std::vector<int> numbers;
  DIR* stream = opendir(directory);
  if (!stream) cannot(directory);
  while (const dirent* entry = readdir(stream)) {
    if (entry->d_name[0] != '.') numbers.push_back(atoi(entry->d_name));
  }
  // The stream's own descriptor is no part of the state.
  std::erase(numbers, strstr(directory, "/fd") ? dirfd(stream) : -1);
  closedir(stream);
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

// Keeps the lines of `text` that start with one of `keys`.
std::string lines_of(const std::string& text, const std::vector<std::string>& keys) {
  std::string kept;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const bool wanted = std::any_of(keys.begin(), keys.end(),
                                    [&](const auto& key) { return line.starts_with(key); });
    if (wanted) kept += line + "\n";
  }
  return kept;
}

// Address lines and VmFlags of smaps: counters like Rss may change without our doing.
std::string mappings() {
  std::string smaps;
  append_file(smaps, "/proc/self/smaps");
  std::string kept;
  std::istringstream lines(smaps);
  for (std::string line; std::getline(lines, line);) {
    const bool address = isxdigit(line[0]) && line.find('-') < 17;
    if (address || line.starts_with("VmFlags:")) kept += line + "\n";
  }
  // The soft-dirty mark comes and goes with whoever reads page maps on this machine, and a test may
  // delete a file while it is mapped.
  for (const std::string mark : {" sd", " (deleted)"}) {
    for (size_t at; (at = kept.find(mark)) != std::string::npos;) kept.erase(at, mark.size());
  }
  return kept;
}

std::string descriptors() {
  std::string text;
  for (const int fd : numbers_in("/proc/self/fd")) {
    char link[4096];
    const std::string path = "/proc/self/fd/" + std::to_string(fd);
    const ssize_t length = readlink(path.c_str(), link, sizeof link);
    if (length < 0) continue;
    text += std::to_string(fd) + " -> " + std::string(link, length) + "\n";
    std::string info;
    append_file(info, "/proc/self/fdinfo/" + std::to_string(fd));
    text += lines_of(info, {"flags:", "lock:", "eventfd-count:", "sigmask:", "tfd:", "inotify",
                            "clockid:", "settime flags:", "it_interval:"});
  }
  return text;
}

std::string tasks() {
  static const std::vector<std::string> keys{"Name:",
                                             "Umask:",
                                             "Tgid:",
                                             "Pid:",
                                             "PPid:",
                                             "TracerPid:",
                                             "Uid:",
                                             "Gid:",
                                             "Groups:",
                                             "Threads:",
                                             "SigPnd:",
                                             "ShdPnd:",
                                             "SigBlk:",
                                             "SigIgn:",
                                             "SigCgt:",
                                             "Cap",
                                             "NoNewPrivs:",
                                             "Seccomp",
                                             "Cpus_allowed_list:",
                                             "THP_enabled:"};
  std::string text;
  for (const int tid : numbers_in("/proc/self/task")) {
    const std::string directory = "/proc/self/task/" + std::to_string(tid);
    std::string status;
    append_file(status, directory + "/status");
    text += lines_of(status, keys);
    append_file(text, directory + "/timerslack_ns");
    append_file(text, directory + "/personality");
  }
  return text;
}

std::string children() {
  std::string text;
  for (const int tid : numbers_in("/proc/self/task")) {
    append_file(text, "/proc/self/task/" + std::to_string(tid) + "/children");
  }
  return text;
}

std::string first_difference(const std::string& before, const std::string& after) {
  std::istringstream a(before), b(after);
  std::string line_a, line_b;
  do {
    line_a = line_b = "(nothing)";
    const bool more_a = static_cast<bool>(std::getline(a, line_a));
    const bool more_b = static_cast<bool>(std::getline(b, line_b));
    if (!more_a && !more_b) return "";
  } while (line_a == line_b);
  return "was \"" + line_a + "\", is \"" + line_b + "\"";
}

// " ino:b052c2 sdev:f", as fdinfo tells what epoll and inotify watch; of a lock what stands before
// the range, "21509 fe:00:10952776".
void erase_numbers_of_files(std::string& line) {
  for (const char* key : {" ino:", " sdev:", " fhandle-bytes:", " fhandle-type:", " f_handle:"})
    if (const size_t at = line.find(key); at != std::string::npos)
      line.erase(at, line.find(' ', at + 1) - at);
  if (!line.starts_with("lock:")) return;
  const size_t inode = line.rfind(':'), range = line.find(' ', inode);
  const size_t owner = line.rfind(' ', line.rfind(' ', inode) - 1);
  line.erase(owner, range - owner);
}

std::string without_numbers(const std::string& text) {
  std::string kept;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const bool standard = line.size() > 5 && line[0] >= '0' && line[0] <= '2' && line[1] == ' ';
    if (standard) std::getline(lines, line);  // its flags, too
    if (standard || line.starts_with("PPid:")) continue;
    if (const size_t at = line.find(":["); at != std::string::npos) line.resize(at);
    erase_numbers_of_files(line);
    kept += line + "\n";
  }
  return kept;
}

struct Mapping {
  unsigned long start, end;
  std::string rest, flags;
};

std::string as_one_where_equal(const std::string& text) {
  std::vector<Mapping> mappings;
  std::istringstream lines(text);
  for (std::string line, flags; std::getline(lines, line) && std::getline(lines, flags);) {
    // The mark of guard pages, which mappings that become one have in common.
    if (const size_t mark = flags.find(" gu"); mark != std::string::npos) flags.erase(mark, 3);
    Mapping next{strtoul(line.c_str(), nullptr, 16),
                 strtoul(line.c_str() + line.find('-') + 1, nullptr, 16),
                 line.substr(line.find(' ')), flags};
    // Without offset, which follows from the start, device and inode.
    const size_t name = next.rest.find_first_of("/[");
    next.rest = next.rest.substr(0, 6) + (name == std::string::npos ? "" : next.rest.substr(name));
    if (next.rest.ends_with("/memfd:zero"))
      next.rest.replace(next.rest.find("/memfd:zero"), 11, "/dev/zero");
    Mapping* last = mappings.empty() ? nullptr : &mappings.back();
    if (last && last->end == next.start && last->rest == next.rest && last->flags == flags)
      last->end = next.end;
    else
      mappings.push_back(next);
  }
  std::ostringstream out;
  for (const Mapping& mapping : mappings)
    out << std::hex << mapping.start << '-' << mapping.end << mapping.rest << ' ' << mapping.flags
        << '\n';
  return out.str();
}

std::string in_order(const std::string& words) {
  std::istringstream stream(words);
  const std::set<std::string> sorted(std::istream_iterator<std::string>(stream), {});
  std::string text;
  for (const std::string& word : sorted) text += word + ' ';
  return text;
}

}  // namespace

bool was_restored() {
  const char* directory = getenv("TMPDIR");
  return directory && access((std::string(directory) + "/restored").c_str(), F_OK) == 0;
}

// A restored tree has what it had, but for this: its standard streams and its first process's
// parent are others, pipes and removed files have other numbers, in a sandbox all files, file locks
// were taken by another process, adjoining mappings that do not differ may have become one, and an
// ordinary user has a memfd in place of anonymous shared memory.
void OwnState::forget_what_a_restore_changes(Texts& texts) {
  if (!was_restored()) return;
  texts[kMappings] = as_one_where_equal(texts[kMappings]);
  texts[kDescriptors] = without_numbers(texts[kDescriptors]);
  texts[kTasks] = without_numbers(texts[kTasks]);
  texts[kChildren] = in_order(texts[kChildren]);  // those that were adopted may stand elsewhere
}

void OwnState::read(Texts& texts) {
  texts[kMappings] = mappings();
  texts[kDescriptors] = descriptors();
  texts[kTasks] = tasks();
  texts[kChildren] = children();
}

// Reading needs memory, which changes the mappings: read until reading changes nothing more.
void OwnState::remember() {
  for (int attempt = 0; attempt < 20; ++attempt) {
    read(before_);
    read(after_);
    if (before_ == after_) return;
  }
  differs("the target's own state does not settle");
}

void OwnState::compare() {
  static constexpr std::array<const char*, kParts> names{"mappings", "descriptors", "tasks",
                                                         "children"};
  read(after_);
  forget_what_a_restore_changes(before_);
  forget_what_a_restore_changes(after_);
  for (int part = 0; part < kParts; ++part) {
    if (before_[part] == after_[part]) continue;
    differs("%s: %s", names[part], first_difference(before_[part], after_[part]).c_str());
  }
}

void OwnState::compare_once_settled() {
  for (int tries = 0; tries < 1000; ++tries) {
    read(after_);
    if (before_ == after_) return;
    sleep_ms(2);
  }
  compare();
}

void wait_until_blocked(pid_t tid, long number) {
  const std::string path = "/proc/self/task/" + std::to_string(tid) + "/syscall";
  const std::string start = std::to_string(number) + " ";
  for (std::string text; !text.starts_with(start);) {
    sleep_ms(1);
    text.clear();
    append_file(text, path);
  }
}

}  // namespace target
