// Files without a name, with awkward values, open in a parent and its child, mapped by some:
// removed ones, sparse and empty ones, one that lost only the name it was opened by, memfds with
// seals.
//
// --hugetlb     also of huge pages, and private ones, 6 in all
// --all-open    without one that is only mapped: out of an ordinary user's reach

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "target.h"

namespace {

using target::expect_equal;
using target::setup;

constexpr size_t kPage = 4096, kHugePage = 2 << 20;
constexpr int kHuge2M = 21 << 26;                     // MAP_HUGE_2MB, MFD_HUGE_2MB
constexpr off_t kFar = (off_t{1} << 39) + kPage - 1;  // the byte before a page begins
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL;

std::string pattern(size_t size, uint64_t seed) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i)
    bytes[i] = static_cast<char>(target::mix(seed + i / 8) >> i % 8 * 8);
  return bytes;
}

void write_at(int fd, const std::string& bytes, off_t at) {
  if (pwrite(fd, bytes.data(), bytes.size(), at) != static_cast<ssize_t>(bytes.size()))
    target::cannot("pwrite");
}

void expect_content(const char* what, int fd, const std::string& expected, off_t at = 0) {
  std::string seen(expected.size() + 1, '\0');
  const ssize_t n = target::expect_call(what, pread(fd, seen.data(), seen.size(), at));
  seen.resize(n < 0 ? 0 : n);
  if (seen != expected) target::differs("%s has another content", what);
}

struct stat status_of(int fd) {
  struct stat status {};
  target::expect_call("fstat", fstat(fd, &status));
  return status;
}

char* map(int fd, size_t size, int protection, int flags, off_t offset = 0) {
  void* memory = mmap(nullptr, size, protection, flags, fd, offset);
  if (memory == MAP_FAILED) target::cannot("mmap");
  return static_cast<char*>(memory);
}

// What was set up, and how it is checked.
class Checks {
 public:
  int create(const char* name, const std::string& content, mode_t mode = 0600) {
    const int fd = setup(name, open(scratch_.path(name).c_str(), O_RDWR | O_CREAT | O_EXCL, mode));
    write_at(fd, content, 0);
    return fd;
  }
  void remove(const char* name) { setup("unlink", unlink(scratch_.path(name).c_str())); }
  std::string path(const char* name) const { return scratch_.path(name); }
  void add(std::function<void()> check) { checks_.push_back(std::move(check)); }
  void run() const {
    for (const auto& check : checks_) check();
  }

 private:
  target::ScratchDirectory scratch_;
  std::vector<std::function<void()>> checks_;
};

std::string link_of(int fd) {
  char text[4096] = {};
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  target::expect_call("readlink", readlink(link.c_str(), text, sizeof text - 1));
  return text;
}

void hold_removed(Checks& checks) {
  const int fd = checks.create("removed", pattern(10001, 1), 0640);
  const int copy = setup("dup", dup(fd));
  const int other = setup("open", open(checks.path("removed").c_str(), O_RDONLY | O_NONBLOCK));
  setup("lseek", lseek(fd, 5000, SEEK_SET));
  const std::string path = checks.path("removed");
  checks.remove("removed");
  const timespec time = status_of(fd).st_mtim;
  checks.add([=] {
    expect_content("removed", fd, pattern(10001, 1));
    expect_content("removed, by another description", other, pattern(10001, 1));
    expect_equal("position", lseek(copy, 0, SEEK_CUR), 5000);
    lseek(fd, 1, SEEK_SET);
    expect_equal("shared position", lseek(copy, 0, SEEK_CUR), 1);
    expect_equal("position of another description", lseek(other, 0, SEEK_CUR), 0);
    const struct stat status = status_of(fd);
    expect_equal("links", status.st_nlink, 0);
    expect_equal("mode", status.st_mode, S_IFREG | 0640);
    expect_equal("inode of another description", status_of(other).st_ino, status.st_ino);
    expect_equal("seconds of the time", status.st_mtim.tv_sec, time.tv_sec);
    expect_equal("nanoseconds of the time", status.st_mtim.tv_nsec, time.tv_nsec);
    if (link_of(fd) != path + " (deleted)") target::differs("it is now %s", link_of(fd).c_str());
    write_at(fd, "!", 10001);
    expect_equal("size by another description", status_of(other).st_size, 10002);
  });
}

void hold_sparse(Checks& checks) {
  const int fd = checks.create("sparse", "");
  checks.remove("sparse");
  setup("ftruncate", ftruncate(fd, 2 * kFar));
  write_at(fd, "far", kFar);
  const int empty = checks.create("empty", "");
  checks.remove("empty");
  checks.add([=] {
    expect_equal("size of the sparse file", status_of(fd).st_size, 2 * kFar);
    if (status_of(fd).st_blocks > 1000) target::differs("the sparse file is not sparse any more");
    char seen[5] = {1, 1, 1, 1, 1};
    target::expect_call("pread", pread(fd, seen, sizeof seen, kFar - 1));
    if (memcmp(seen, "\0far", sizeof seen) != 0) target::differs("the sparse file's content");
    expect_equal("size of the empty file", status_of(empty).st_size, 0);
  });
}

// More than is kept while the tree is stopped.
void hold_large(Checks& checks) {
  const int written = checks.create("large", pattern(17 << 20, 2));
  const int unwritten = setup("open", open(checks.path("large").c_str(), O_RDONLY));
  checks.remove("large");
  checks.create("large, read only", pattern(17 << 20, 3));
  const int only_read = setup("open", open(checks.path("large, read only").c_str(), O_RDONLY));
  checks.remove("large, read only");
  checks.add([=] {
    expect_content("large", written, pattern(17 << 20, 2));
    expect_content("large", unwritten, pattern(17 << 20, 2));
    expect_content("large, read only", only_read, pattern(17 << 20, 3));
  });
}

void hold_mapped(Checks& checks, bool all_open) {
  const size_t size = 2 * kPage + 1;
  const int fd = checks.create("mapped", pattern(size, 4));
  char* shared = map(fd, size, PROT_READ | PROT_WRITE, MAP_SHARED);
  char* part = map(fd, kPage, PROT_READ, MAP_SHARED, kPage);
  char* own = map(fd, size, PROT_READ | PROT_WRITE, MAP_PRIVATE);
  own[kPage] = 'o';
  checks.remove("mapped");
  const int closed = checks.create("mapped only", pattern(size, 5));
  char* last = map(closed, 3 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
  checks.remove("mapped only");
  if (!all_open) close(closed);
  checks.add([=] {
    if (memcmp(last, pattern(size, 5).data(), size) != 0) target::differs("mapped only: content");
    if (memcmp(shared, pattern(size, 4).data(), size) != 0) target::differs("mapped: content");
    expect_equal("a private page", own[kPage], 'o');
    expect_equal("a private page's neighbour", own[kPage + 1], pattern(size, 4)[kPage + 1]);
    write_at(fd, "w", kPage);
    expect_equal("a written byte, shared", shared[kPage], 'w');
    expect_equal("a written byte, in part", part[0], 'w');
    expect_equal("a written byte, private", own[kPage], 'o');
    shared[size - 1] = 's';
    expect_content("mapped", fd, "s", size - 1);
  });
}

// In `directory`, "" for the same one, by another name.
void hold_renamed(Checks& checks, const std::string& directory) {
  const int fd = checks.create("first name", pattern(100, 6));
  const std::string made = directory.empty() ? "" : checks.path(directory.c_str());
  if (!made.empty()) setup("mkdir", mkdir(made.c_str(), 0700));
  const std::string other = made.empty() ? checks.path("other name") : made + "/other name";
  setup("link", link(checks.path("first name").c_str(), other.c_str()));
  checks.remove("first name");
  checks.add([=] {
    expect_content("what has another name", fd, pattern(100, 6));
    expect_equal("its links", status_of(fd).st_nlink, 1);
    struct stat status {};
    target::expect_call("stat", stat(other.c_str(), &status));
    expect_equal("the inode of that name", status.st_ino, status_of(fd).st_ino);
    unlink(other.c_str());
    if (!made.empty()) rmdir(made.c_str());
  });
}

void hold_memfds(Checks& checks) {
  const int open = setup("memfd_create", memfd_create("nobody maps it", MFD_ALLOW_SEALING));
  write_at(open, pattern(12345, 7), 0);
  const int part = setup("memfd_create", memfd_create("mapped in part", 0));
  write_at(part, pattern(4 * kPage, 8), 0);
  char* shown = map(part, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, 2 * kPage);
  const int sealed = setup("memfd_create", memfd_create("sealed: all", MFD_ALLOW_SEALING));
  write_at(sealed, pattern(5000, 9), 0);
  setup("F_ADD_SEALS", fcntl(sealed, F_ADD_SEALS, kSeals));
  char* view = map(sealed, 5000, PROT_READ, MAP_SHARED);
  checks.add([=] {
    expect_content("memfd", open, pattern(12345, 7));
    expect_equal("memfd: seals", fcntl(open, F_GET_SEALS), 0);
    expect_content("memfd mapped in part", part, pattern(4 * kPage, 8));
    shown[0] = 'm';
    expect_content("memfd mapped in part", part, "m" + pattern(4 * kPage, 8).substr(2 * kPage + 1),
                   2 * kPage);
    expect_equal("sealed memfd: seals", fcntl(sealed, F_GET_SEALS), kSeals);
    expect_content("sealed memfd", sealed, pattern(5000, 9));
    if (memcmp(view, pattern(5000, 9).data(), 5000) != 0) target::differs("sealed memfd: view");
  });
}

void hold_huge(Checks& checks) {
  const int fd = setup("memfd_create", memfd_create("huge", MFD_HUGETLB | kHuge2M));
  setup("ftruncate", ftruncate(fd, 3 * kHugePage));
  char* shared = map(fd, 3 * kHugePage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE);
  memcpy(shared + 2 * kHugePage - 4, "end", 4);
  munmap(shared, 3 * kHugePage);
  char* own = map(-1, 2 * kHugePage, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | kHuge2M);
  memcpy(own + kHugePage, "own", 4);
  setup("mprotect", mprotect(own + kHugePage, kHugePage, PROT_READ));
  char* both = map(-1, kHugePage, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB | kHuge2M);
  memcpy(both, "both", 5);
  checks.add([=] {
    char seen[4] = {};
    target::expect_call("pread", pread(fd, seen, sizeof seen, 2 * kHugePage - 4));
    if (memcmp(seen, "end", 4) != 0) target::differs("the content of the huge memfd");
    expect_equal("the huge memfd's size", status_of(fd).st_size, 3 * kHugePage);
    expect_equal("the huge memfd's pages", status_of(fd).st_blksize, kHugePage);
    if (memcmp(own + kHugePage, "own", 4) != 0) target::differs("private huge pages");
    if (memcmp(both, "both", 5) != 0) target::differs("shared huge pages");
    // A huge page can be unmapped as a whole only.
    expect_equal("unmapping a part", munmap(own, kPage), -1);
  });
}

}  // namespace

int main(int argc, char** argv) {
  target::prepare_end();
  target::Family family;
  Checks checks;
  hold_removed(checks);
  hold_sparse(checks);
  hold_large(checks);
  hold_mapped(checks, target::has_flag(argc, argv, "--all-open"));
  hold_renamed(checks, "");
  hold_renamed(checks, "elsewhere");
  hold_memfds(checks);
  if (target::has_flag(argc, argv, "--hugetlb")) hold_huge(checks);
  const int shared = checks.create("shared with the child", "");
  checks.remove("shared with the child");
  const pid_t child = family.fork_child();
  if (child == 0) {
    family.announce_ready();
    family.wait_for_end_of_family();
    write_at(shared, "written by the child", 0);
    expect_equal("seek", lseek(shared, 7, SEEK_SET), 7);
    _exit(target::verdict());
  }
  family.wait_for_announcements(1);
  target::ready();
  target::wait_for_end();

  checks.run();
  family.end();
  target::expect_success_of(child);
  expect_content("what the child wrote", shared, "written by the child");
  expect_equal("the position that it left", lseek(shared, 0, SEEK_CUR), 7);
  return target::verdict();
}
