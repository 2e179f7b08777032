#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/image/snapshot.pb.h"

namespace snapgdb {

// A directory, device or FIFO that was removed is there again for the moment in which it is opened:
// by the name that it had, or a similar one where that is taken. What was not removed is left
// alone.
class BriefName {
 public:
  explicit BriefName(const pb::Descriptor& descriptor);  // throws Error: it cannot be made
  ~BriefName();
  BriefName(const BriefName&) = delete;
  BriefName& operator=(const BriefName&) = delete;
  const std::string& path() const { return path_; }

  // Why there is no place for one of that name; "" if there is.
  static std::string obstacle(const std::string& path);

 private:
  std::string path_;
  bool made_ = false, is_directory_ = false;
  std::vector<std::string> parents_ = {};  // that had to be made, too
};

// Whether a name of a removed directory is "/proc/N", which goes with process N.
bool is_directory_of_ended(std::string_view path);

}  // namespace snapgdb
