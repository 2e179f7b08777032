#pragma once

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <string>

#include "core/base/fd.h"
#include "tests/e2e/harness.h"

namespace snapgdb::e2e {

// So many huge pages in the machine's pool, which is put back afterwards. Who else would change it
// meanwhile waits.
class HugePages {
 public:
  explicit HugePages(size_t count)
      : setting_(open("/proc/sys/vm/nr_hugepages", O_RDWR | O_CLOEXEC)) {
    if (!setting_.valid() || flock(setting_.get(), LOCK_EX) != 0) return;
    before_ = read_whole(setting_.get(), "the number of huge pages");
    set(std::to_string(std::stoul(before_) + count));
    enough_ = std::stoul(read_file("/proc/sys/vm/nr_hugepages")) >= std::stoul(before_) + count;
  }
  ~HugePages() { set(before_); }
  bool enough() const { return enough_; }

 private:
  void set(const std::string& count) const {
    if (!count.empty()) (void)!pwrite(setting_.get(), count.data(), count.size(), 0);
  }

  Fd setting_;
  std::string before_;
  bool enough_ = false;
};

}  // namespace snapgdb::e2e
