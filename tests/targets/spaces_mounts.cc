// File systems in memory with everything that can be in one, parts of others, read-only ones, peers
// and slaves; all below a directory, in a mount namespace of its own.

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <sstream>
#include <vector>

#include "spaces.h"
#include "target.h"

namespace {

using target::expect_equal;
using target::setup;

void make_directory(const std::string& path, mode_t mode = 0755) {
  setup(path.c_str(), mkdir(path.c_str(), mode));
}

void mount_at(const char* source, const std::string& path, const char* type, unsigned long flags,
              const char* options = "") {
  setup(path.c_str(), mount(source, path.c_str(), type, flags, options));
}

void set_times(const std::string& path, time_t seconds, long nanoseconds) {
  const timespec times[] = {{seconds + 1, nanoseconds / 2}, {seconds, nanoseconds}};
  setup("utimensat", utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW));
}

// ---- What there is, in words --------------------------------------------------------------------

uint64_t hash_of(const std::string& path) {
  const std::string text = read_text(path);
  uint64_t hash = text.size();
  for (const char c : text) hash = target::mix(hash ^ static_cast<unsigned char>(c));
  return hash;
}

std::string words_for_file(const std::string& path) {
  struct stat status {};
  setup("lstat", lstat(path.c_str(), &status));
  std::ostringstream words;
  words << path << std::oct << " mode " << status.st_mode << std::dec << " owner " << status.st_uid
        << ':' << status.st_gid << " links " << status.st_nlink << " changed "
        << status.st_mtim.tv_sec << '.' << status.st_mtim.tv_nsec << " node " << status.st_rdev;
  if (S_ISREG(status.st_mode))
    words << " size " << status.st_size << " blocks " << status.st_blocks << " hash "
          << hash_of(path);
  char target[4096] = {};
  if (S_ISLNK(status.st_mode) && readlink(path.c_str(), target, sizeof target - 1) > 0)
    words << " to " << target;
  char value[256] = {};
  if (!S_ISLNK(status.st_mode) && getxattr(path.c_str(), "user.note", value, sizeof value) > 0)
    words << " note " << value;
  return words.str() + "\n";
}

std::string words_for_all(const std::string& directory) {
  std::map<std::string, std::string> all;
  DIR* list = opendir(directory.c_str());
  if (!list) target::cannot(directory.c_str());
  while (const dirent* entry = readdir(list)) {
    const std::string name = entry->d_name, path = directory + "/" + name;
    if (name == "." || name == "..") continue;
    all[name] = words_for_file(path);
    if (entry->d_type == DT_DIR) all[name] += words_for_all(path);
  }
  closedir(list);
  std::string words;
  for (const auto& [name, text] : all) words += text;
  return words;
}

// Groups are called by the order in which they are met.
std::string with_own_numbers(const std::string& mounts) {
  std::map<std::string, size_t> groups;
  std::istringstream words(mounts);
  std::string out;
  for (std::string word; words >> word; out += word + " ") {
    const size_t colon = word.find(':');
    if (word.starts_with("shared:") || word.starts_with("master:"))
      word = word.substr(0, colon + 1) +
             std::to_string(groups.try_emplace(word.substr(colon), groups.size()).first->second);
  }
  return out;
}

// Of /proc/self/mountinfo, what stays: numbers of mounts and devices do not, and groups are
// numbered as they come.
std::string words_for_mounts(const std::string& below) {
  std::istringstream lines(read_text("/proc/self/mountinfo"));
  std::map<std::string, std::string> mounts;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string id, parent, device, root, point, rest;
    words >> id >> parent >> device >> root >> point;
    if (!point.starts_with(below + "/")) continue;
    // Where its own file system has it; others have it elsewhere in an isolated tree.
    std::getline(words, rest);
    const bool is_memory = rest.find(" - tmpfs ") != rest.npos;
    mounts[point] += is_memory ? root + rest + "\n" : rest.substr(0, rest.find(" - ")) + "\n";
  }
  std::string text;
  for (const auto& [point, words] : mounts) text += point + " " + words;
  return with_own_numbers(text);
}

// ---- Setting up ---------------------------------------------------------------------------------

void fill(const std::string& directory) {
  write_text(directory + "/text", "some text");
  write_text(directory + "/empty", "");
  setup("chmod", chmod((directory + "/text").c_str(), 04751));
  const int big = setup("open", open((directory + "/sparse").c_str(), O_CREAT | O_RDWR, 0600));
  setup("ftruncate", ftruncate(big, (64 << 20) + 123));
  const std::string block(20000, 'x');
  setup("pwrite", pwrite(big, block.data(), block.size(), 5 << 20));
  setup("pwrite", pwrite(big, block.data(), block.size(), 40 << 20));
  close(big);
  make_directory(directory + "/deep", 0700);
  std::string deep = directory + "/deep";
  for (int i = 0; i < 20; ++i) make_directory(deep += "/" + std::to_string(i));
  write_text(deep + "/na\tme \xff", std::string(100'000, 'y'));
  setup("symlink", symlink("../no\\where", (directory + "/link").c_str()));
  setup("link", link((directory + "/text").c_str(), (directory + "/deep/same").c_str()));
  setup("mkfifo", mkfifo((directory + "/fifo").c_str(), 0640));
  // Not every kernel has them on file systems in memory.
  setxattr((directory + "/empty").c_str(), "user.note", "remember", 8, 0);
  set_times(directory + "/link", 3, 999'999'999);
  set_times(directory + "/text", -86400, 1);
  set_times(directory + "/deep", 4'000'000'000, 5);
}

// Only root, outside of all user namespaces, makes these.
void fill_as_root(const std::string& directory) {
  const std::string device = directory + "/device", owned = directory + "/owned";
  setup("mknod", mknod(device.c_str(), S_IFCHR | 0622, makedev(1, 5)));
  write_text(owned, "somebody else's");
  setup("chown", lchown(owned.c_str(), 4711, 4712));
  setup("chmod", chmod(owned.c_str(), 06750));
}

int listen_at(const std::string& path) {
  const int listener = setup("socket", socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  setup("bind", bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address));
  setup("listen", listen(listener, 1));
  return listener;
}

void expect_answer_at(const std::string& path) {
  const int caller = setup("socket", socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  target::expect_call("connect to a name in memory",
                      connect(caller, reinterpret_cast<sockaddr*>(&address), sizeof address));
  close(caller);
}

// Everything of it is read-only, but for the scratch directory.
void enter_own_root(const std::string& top) {
  const std::string root = top + "/root";
  make_directory(root);
  mount_at("root", root, "tmpfs", MS_NOSUID, "size=64m,mode=711");
  for (const char* shown : {"/usr", "/lib", "/lib64", "/bin", "/dev"}) {
    struct stat status {};
    char target[4096] = {};
    if (lstat(shown, &status) != 0) continue;
    if (S_ISLNK(status.st_mode) && readlink(shown, target, sizeof target - 1) > 0) {
      setup("symlink", symlink(target, (root + shown).c_str()));
      continue;
    }
    make_directory(root + shown);
    mount_at(shown, root + shown, nullptr, MS_BIND | MS_REC);
    if (strcmp(shown, "/dev") != 0)
      mount_at(nullptr, root + shown, nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY);
  }
  for (size_t slash = top.find('/', 1); slash != top.npos; slash = top.find('/', slash + 1))
    mkdir((root + top.substr(0, slash)).c_str(), 0755);
  make_directory(root + top);
  mount_at(top.c_str(), root + top, nullptr, MS_BIND);
  const char* program = getenv("SPACES_PROGRAMS");  // where this program lies
  if (program) {
    const std::string directory = program;
    for (size_t slash = directory.find('/', 1); slash != directory.npos;
         slash = directory.find('/', slash + 1))
      mkdir((root + directory.substr(0, slash)).c_str(), 0755);
    mkdir((root + directory).c_str(), 0755);
    mount_at(program, root + directory, nullptr, MS_BIND);
  }
  make_directory(root + "/proc");
  // A new one takes a pid namespace of one's own, or rights outside.
  if (mount("proc", (root + "/proc").c_str(), "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "") != 0)
    mount_at("/proc", root + "/proc", nullptr, MS_BIND | MS_REC);
  setup("chdir", chdir(root.c_str()));
  setup("pivot_root", static_cast<int>(syscall(SYS_pivot_root, ".", ".")));
  setup("umount2", umount2(".", MNT_DETACH));
  setup("chdir", chdir("/"));
}

// Peers, one of which shows a part of the others, and some that hear of those.
void make_groups(const std::string& at) {
  make_directory(at);
  mount_at("groups", at, "tmpfs", 0);
  for (const char* name : {"/first", "/part", "/slave", "/peer"}) make_directory(at + name);
  mount_at("first", at + "/first", "tmpfs", 0);
  make_directory(at + "/first/below");
  mount_at("none", at + "/first", nullptr, MS_SHARED);
  mount_at((at + "/first/below").c_str(), at + "/part", nullptr, MS_BIND);
  mount_at((at + "/first").c_str(), at + "/slave", nullptr, MS_BIND);
  mount_at("none", at + "/slave", nullptr, MS_SLAVE);
  mount_at("none", at + "/slave", nullptr, MS_SHARED);
  mount_at((at + "/slave").c_str(), at + "/peer", nullptr, MS_BIND);
  mount_at("late", at + "/slave/below", "tmpfs", 0);
}

void expect_groups(const std::string& at) {
  write_text(at + "/peer/below/text", "for two");
  expect_text("what was mounted at a slave's peer", read_text(at + "/slave/below/text"), "for two");
  expect_equal("umount at a slave", umount((at + "/slave/below").c_str()), 0);
  expect_equal("umount of its peer", umount((at + "/peer").c_str()), 0);
  mount_at("later", at + "/first/below", "tmpfs", 0);
  write_text(at + "/first/below/text", "for all");
  expect_text("what was mounted at its master", read_text(at + "/slave/below/text"), "for all");
}

}  // namespace

Check own_mounts(bool has_own_root, bool has_devices) {
  setup("unshare", unshare(CLONE_NEWNS));
  mount_at("none", "/", nullptr, MS_REC | MS_PRIVATE);
  const std::string top = scratch();
  if (has_own_root) enter_own_root(top);
  const std::string memory = top + "/memory", part = top + "/part", fixed = top + "/fixed",
                    stack = top + "/stack";
  for (const std::string& path : {memory, part, fixed, stack, top + "/outside", top + "/shown"})
    make_directory(path);
  mount_at("some source", memory, "tmpfs", MS_NOATIME, "size=256m,mode=1751");
  fill(memory);
  if (has_devices) fill_as_root(memory);
  make_directory(memory + "/covered");
  write_text(memory + "/covered/hidden", "nobody sees it");
  mount_at("inner", memory + "/covered", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "nr_inodes=77");
  write_text(memory + "/covered/seen", "everybody sees it");
  for (const char* text : {"lower", "upper"}) {
    mount_at("stack", stack, "tmpfs", 0);
    write_text(stack + "/which", text);
    make_directory(stack + "/inner");
    mount_at("inner", stack + "/inner", "tmpfs", 0);
    write_text(stack + "/inner/which", text);
  }
  make_groups(top + "/groups");
  mount_at("none", memory, nullptr, MS_SHARED);
  mount_at((memory + "/deep/0").c_str(), part, nullptr, MS_BIND);
  mount_at("fixed", fixed, "tmpfs", 0);
  write_text(fixed + "/unchanging", "for ever");
  mount_at(nullptr, fixed, nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NODEV);
  mount_at((top + "/outside").c_str(), top + "/shown", nullptr, MS_BIND);
  const std::string itself = top + "/itself";
  make_directory(itself);
  mount_at(itself.c_str(), itself, nullptr, MS_BIND);
  mount_at(nullptr, itself, nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY);
  const int listener = listen_at(part + "/name");
  const int held = setup("open", open((memory + "/text").c_str(), O_RDWR | O_APPEND));
  setup("chdir", chdir((memory + "/deep/0/1").c_str()));
  const std::string files = words_for_all(memory + "/deep/0/1") + words_for_file(memory + "/text") +
                            words_for_file(memory + "/sparse") + words_for_file(memory + "/link") +
                            words_for_file(memory + "/fifo") + words_for_file(memory + "/empty") +
                            words_for_file(memory + "/deep") + words_for_all(memory + "/covered");
  const std::string roots =
      has_devices ? words_for_file(memory + "/device") + words_for_file(memory + "/owned") : "";
  const std::string mounts = words_for_mounts(top);
  const std::string root = has_own_root ? words_for_file("/") : "";
  return [=] {
    expect_text("mounts", words_for_mounts(top), mounts);
    expect_text("files",
                words_for_all(memory + "/deep/0/1") + words_for_file(memory + "/text") +
                    words_for_file(memory + "/sparse") + words_for_file(memory + "/link") +
                    words_for_file(memory + "/fifo") + words_for_file(memory + "/empty") +
                    words_for_file(memory + "/deep") + words_for_all(memory + "/covered"),
                files);
    if (has_devices)
      expect_text("files of root's",
                  words_for_file(memory + "/device") + words_for_file(memory + "/owned"), roots);
    if (has_own_root) expect_text("the root directory", words_for_file("/"), root);
    char here[4096] = {};
    expect_text("working directory", getcwd(here, sizeof here) ? here : "?", memory + "/deep/0/1");
    expect_answer_at(part + "/name");
    expect_equal("writing", write(held, "!", 1), 1);
    expect_text("a file that is open", read_text(memory + "/text"), "some text!");
    expect_text("what is read-only", read_text(fixed + "/unchanging"), "for ever");
    expect_equal("writing what is read-only",
                 open((fixed + "/new").c_str(), O_CREAT | O_RDWR, 0600) < 0, true);
    expect_equal("writing what was made read-only for us",
                 open((itself + "/new").c_str(), O_CREAT | O_RDWR, 0600) < 0, true);
    write_text(top + "/shown/made", "x");
    expect_text("a directory of others", read_text(top + "/outside/made"), "x");
    // What is mounted below one of two peers is below the other, too.
    mount_at("late", memory + "/deep/0/1/2", "tmpfs", 0);
    write_text(memory + "/deep/0/1/2/late", "z");
    expect_text("what was mounted at a peer", read_text(part + "/1/2/late"), "z");
    expect_text("the upper of two mounts", read_text(stack + "/which"), "upper");
    target::expect_call("umount", umount((stack + "/inner").c_str()));
    target::expect_call("umount", umount(stack.c_str()));
    expect_text("the lower of them", read_text(stack + "/which"), "lower");
    expect_text("what is mounted in it", read_text(stack + "/inner/which"), "lower");
    expect_groups(top + "/groups");
    target::expect_call("umount", umount((memory + "/covered").c_str()));
    expect_text("what a mount hid", read_text(memory + "/covered/hidden"), "nobody sees it");
    close(listener);
  };
}
