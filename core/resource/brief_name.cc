#include "core/resource/brief_name.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#undef major  // those of sysmacros.h, in the way of the schema's
#undef minor

#include <filesystem>
#include <ranges>
#include <vector>

#include <fmt/format.h>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/device_number.h"

namespace snapgdb {
namespace {

namespace fs = std::filesystem;

bool make(const std::string& path, const pb::Descriptor& descriptor) {
  const mode_t mode = descriptor.mode();
  if (S_ISLNK(mode)) return ::symlink(descriptor.file().link_target().c_str(), path.c_str()) == 0;
  const pb::Device& device = descriptor.device_node();
  const int result = S_ISDIR(mode)
                         ? ::mkdir(path.c_str(), mode)
                         : ::mknod(path.c_str(), mode, make_device(device.major(), device.minor()));
  return result == 0 && ::chmod(path.c_str(), mode & 07777) == 0;
}

// Outermost first.
std::vector<fs::path> missing_parents(const fs::path& path) {
  std::vector<fs::path> missing;
  for (fs::path parent = path.parent_path(); !fs::exists(parent); parent = parent.parent_path())
    missing.insert(missing.begin(), parent);
  return missing;
}

}  // namespace

BriefName::BriefName(const pb::Descriptor& descriptor)
    : path_(descriptor.target()), is_directory_(S_ISDIR(descriptor.mode())) {
  if (!descriptor.removed()) return;
  for (const fs::path& parent : missing_parents(path_)) {
    if (::mkdir(parent.c_str(), 0700) != 0)
      throw_errno("cannot make {} for a moment", printable(parent.native()));
    parents_.push_back(parent);
  }
  for (int i = 0; !make(path_, descriptor); path_ = fmt::format("{}.{}", descriptor.target(), i++))
    if (errno != EEXIST) throw_errno("cannot make {} for a moment", printable(path_));
  made_ = true;
}

BriefName::~BriefName() {
  if (made_) is_directory_ ? ::rmdir(path_.c_str()) : ::unlink(path_.c_str());
  for (const std::string& parent : parents_ | std::views::reverse) ::rmdir(parent.c_str());
}

std::string BriefName::obstacle(const std::string& path) {
  const auto missing = missing_parents(path);
  const std::string directory = (missing.empty() ? fs::path(path) : missing.front()).parent_path();
  if (::faccessat(AT_FDCWD, directory.c_str(), W_OK, AT_EACCESS) == 0) return "";
  return fmt::format("it was removed, and cannot be made again in {}: {}", printable(directory),
                     errno_text(errno));
}

bool is_directory_of_ended(std::string_view path) {
  constexpr std::string_view kProc = "/proc/";
  return path.starts_with(kProc) && parse_number<uint32_t>(path.substr(kProc.size()));
}

}  // namespace snapgdb
