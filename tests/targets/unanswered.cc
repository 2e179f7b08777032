// A child sleeps where no signal reaches it: in a call to a file system (in user space, fuse(4))
// that does not answer, once it was interrupted. At the end it gets its answer, and must find
// nothing else.

#include <fcntl.h>
#include <linux/fuse.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "target.h"

namespace {

class FileSystem {
 public:
  explicit FileSystem(const char* directory)
      : device_(target::setup("/dev/fuse", open("/dev/fuse", O_RDWR | O_CLOEXEC))) {
    target::setup("unshare", unshare(CLONE_NEWNS));
    target::setup("mount", mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
    char options[80];
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0", device_);
    target::setup("mount", mount("unanswered", directory, "fuse", 0, options));
    fuse_init_out init{};
    init.major = FUSE_KERNEL_VERSION;
    init.minor = FUSE_KERNEL_MINOR_VERSION;
    init.max_write = 4096;
    answer(next_question(FUSE_INIT), 0, &init, sizeof init);
  }

  // The number of the next one of that kind; others are passed over.
  uint64_t next_question(uint32_t kind) const {
    alignas(fuse_in_header) char bytes[64 << 10];
    const auto* header = reinterpret_cast<const fuse_in_header*>(bytes);
    do target::setup("read", read(device_, bytes, sizeof bytes));
    while (header->opcode != kind);
    return header->unique;
  }

  void answer(uint64_t question, int error, const void* content = nullptr, size_t size = 0) const {
    char bytes[4096];
    const fuse_out_header header{static_cast<uint32_t>(sizeof header + size), -error, question};
    memcpy(bytes, &header, sizeof header);
    if (size) memcpy(bytes + sizeof header, content, size);
    target::setup("write", write(device_, bytes, header.len));
  }

 private:
  int device_;
};

[[noreturn]] void be_the_child(const char* name) {
  struct stat status;
  const bool is_answer = stat(name, &status) != 0 && errno == ECANCELED;
  if (!is_answer) target::differs("the file system's answer was lost: %s", strerror(errno));
  _exit(target::verdict());
}

}  // namespace

int main() {
  target::prepare_end();
  const std::string directory = std::string(getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp") + "/fuse";
  target::setup("mkdir", mkdir(directory.c_str(), 0700));
  const FileSystem file_system(directory.c_str());
  const pid_t child = fork();
  if (child == 0) be_the_child((directory + "/file").c_str());
  const uint64_t question = file_system.next_question(FUSE_LOOKUP);
  target::say("process %d child", child);
  target::ready();
  target::wait_for_end();
  file_system.answer(question, ECANCELED);
  target::expect_success_of(child);
  umount2(directory.c_str(), MNT_DETACH);
  rmdir(directory.c_str());
  return target::verdict();
}
