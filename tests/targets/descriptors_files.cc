#include <fcntl.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <cstdlib>

#include "descriptors.h"

namespace descriptors {
namespace {

using target::expect_equal;
using target::setup;

int create(Holder& holder, const char* name, int flags) {
  return setup(name, open(holder.scratch().path(name).c_str(), O_CREAT | flags, 0640));
}

void hold_regular_files(Holder& holder) {
  const int append = create(holder, "appended to\n", O_WRONLY | O_APPEND);
  write_all(append, "twelve bytes");
  holder.hold(100, "regular append", append, [] {
    expect_equal("append: position", lseek(100, 0, SEEK_CUR), 12);
    expect_equal("append: flag", fcntl(100, F_GETFL) & O_APPEND, O_APPEND);
  });

  static constexpr off_t kFar = (off_t{5} << 30) + 7;
  const int far = create(holder, "far", O_RDWR | O_NOATIME);
  setup("ftruncate", ftruncate(far, kFar + 100));
  setup("lseek", lseek(far, kFar, SEEK_SET));
  holder.hold(101, "regular far", far, [] {
    expect_equal("far: position", lseek(101, 0, SEEK_CUR), kFar);
    expect_equal("far: position of the duplicate", lseek(142, 0, SEEK_CUR), kFar);
  });
  holder.hold(142, "duplicate", setup("dup", dup(101)), [] {});

  const int unlinked = create(holder, "unlinked", O_RDWR | O_SYNC);
  write_all(unlinked, pattern(10000, 3));
  unlink(holder.scratch().path("unlinked").c_str());
  setup("lseek", lseek(unlinked, 5000, SEEK_SET));
  holder.hold(102, "unlinked", unlinked,
              [] { expect_read(102, 20000, pattern(10000, 3).substr(5000)); });

  const int sealed = setup("memfd_create", memfd_create("sealed memory", MFD_ALLOW_SEALING));
  write_all(sealed, "memfd content");
  static constexpr int kSeals = F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_WRITE;
  setup("F_ADD_SEALS", fcntl(sealed, F_ADD_SEALS, kSeals));
  holder.hold(137, "memfd sealed", sealed,
              [] { expect_equal("memfd: seals", fcntl(137, F_GET_SEALS), kSeals); });
  holder.hold(1000, "number 1000", create(holder, "thousand", O_RDONLY), [] {});
}

void hold_directories(Holder& holder) {
  const std::string path = holder.scratch().path(".");
  holder.hold(103, "directory", setup("open", open(path.c_str(), O_RDONLY | O_DIRECTORY)), [] {
    struct stat info;
    target::expect_call("fstat", fstat(103, &info));
    expect_equal("directory: mode", info.st_mode & S_IFMT, S_IFDIR);
  });
  holder.hold(104, "path only", setup("open", open(path.c_str(), O_PATH)),
              [] { expect_equal("O_PATH", fcntl(104, F_GETFL) & O_PATH, O_PATH); });
}

void hold_pipes(Holder& holder) {
  static constexpr int kCapacity = 256 << 10;
  int ends[2];
  setup("pipe2", pipe2(ends, O_NONBLOCK));
  setup("F_SETPIPE_SZ", fcntl(ends[1], F_SETPIPE_SZ, kCapacity));
  write_all(ends[1], pattern(kCapacity / 2, 5));
  holder.hold(105, "pipe reader", ends[0], [] {
    expect_equal("pipe: capacity", fcntl(105, F_GETPIPE_SZ), kCapacity);
    std::string seen;
    char buffer[65536];
    for (ssize_t n; (n = read(105, buffer, sizeof buffer)) > 0;) seen.append(buffer, n);
    if (seen != pattern(kCapacity / 2, 5)) target::differs("pipe: its content has changed");
  });
  holder.hold(106, "pipe writer", ends[1], [] {});

  setup("pipe2", pipe2(ends, O_DIRECT));
  for (const char* packet : {"one", "second packet", "3"}) write_all(ends[1], packet);
  holder.hold(107, "packet pipe reader", ends[0], [] {
    for (const char* packet : {"one", "second packet", "3"}) expect_read(107, 100, packet);
  });
  holder.hold(108, "packet pipe writer", ends[1], [] {});

  const std::string fifo = holder.scratch().path("fifo");
  setup("mkfifo", mkfifo(fifo.c_str(), 0600));
  holder.hold(109, "fifo", setup("open", open(fifo.c_str(), O_RDWR)),
              [] { expect_read(109, 100, "in the fifo"); });
  write_all(109, "in the fifo");
}

bool lock_conflicts(int fd, int command, off_t at) {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_start = at;
  lock.l_len = 1;
  target::expect_call("fcntl", fcntl(fd, command, &lock));
  return lock.l_type != F_UNLCK;
}

void lock(int fd, int command, short type, off_t start, off_t length) {
  struct flock region {};
  region.l_type = type;
  region.l_start = start;
  region.l_len = length;
  setup("fcntl", fcntl(fd, command, &region));
}

// A lock is seen through another open file description (OFD, flock) or by the child (POSIX).
void hold_locks(Holder& holder) {
  const auto reopen = [path = holder.scratch().path("")](const char* name) {
    return setup("open", open((path + name).c_str(), O_RDWR));
  };
  holder.hold(145, "posix locks", create(holder, "posix locks", O_RDWR), [reopen] {
    const int other = reopen("posix locks");
    if (!lock_conflicts(other, F_OFD_GETLK, 150)) target::differs("a POSIX lock is gone");
    if (lock_conflicts(other, F_OFD_GETLK, 250)) target::differs("a POSIX lock is new");
  });
  lock(145, F_SETLK, F_WRLCK, 100, 100);
  lock(145, F_SETLK, F_RDLCK, off_t{1} << 40, 0);

  holder.hold(146, "ofd lock", create(holder, "ofd lock", O_RDWR), [reopen] {
    const int other = reopen("ofd lock");
    if (!lock_conflicts(other, F_OFD_GETLK, 15)) target::differs("the OFD lock is gone");
  });
  lock(146, F_OFD_SETLK, F_WRLCK, 10, 10);

  holder.hold(147, "flock", create(holder, "flock", O_RDWR), [reopen] {
    const int other = reopen("flock");
    if (flock(other, LOCK_SH | LOCK_NB) == 0) target::differs("the flock is gone");
  });
  setup("flock", flock(147, LOCK_EX));
}

void hold_devices(Holder& holder) {
  const int master = setup("posix_openpt", posix_openpt(O_RDWR | O_NOCTTY));
  setup("grantpt", grantpt(master));
  setup("unlockpt", unlockpt(master));
  const int slave = setup("open", open(ptsname(master), O_RDWR | O_NOCTTY));
  static constexpr winsize kSize{37, 91, 0, 0};
  setup("TIOCSWINSZ", ioctl(slave, TIOCSWINSZ, &kSize));
  holder.hold(138, "pty master", master, [] {});
  holder.hold(139, "pty slave", slave, [] {
    winsize seen{};
    target::expect_call("TIOCGWINSZ", ioctl(139, TIOCGWINSZ, &seen));
    expect_equal("pty: rows", seen.ws_row, kSize.ws_row);
  });
  holder.hold(140, "null device", setup("open", open("/dev/null", O_RDWR | O_NONBLOCK)), [] {});
  holder.hold(141, "random device", setup("open", open("/dev/urandom", O_RDONLY)), [] {});
}

}  // namespace

void hold_files(Holder& holder) {
  hold_regular_files(holder);
  hold_directories(holder);
  hold_pipes(holder);
  hold_locks(holder);
  hold_devices(holder);
}

}  // namespace descriptors
