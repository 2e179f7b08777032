#include "core/linux/overlay.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <functional>
#include <string_view>

#include <fmt/ranges.h>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/helper_process.h"

namespace snapgdb {
namespace {

// There is such a directory on every system, and no layer in it.
const std::string kStage = "/proc";

void mount_at(const char* type, const std::string& source, const std::string& point,
              const std::string& options) {
  if (::mount(source.empty() ? "none" : source.c_str(), point.c_str(), type, 0, options.c_str()) !=
      0)
    throw_errno("cannot make {} with {}", type, printable(options));
}

void make_directory(const std::string& path) {
  if (::mkdir(path.c_str(), 0755) != 0) throw_errno("cannot make {}", path);
}

// As mount(2) takes them: layers that were named one by one (fsconfig(2), Linux 6.8) in one string,
// and without what is said of the mount.
std::string in_one_string(const std::string& options) {
  std::string lower, others;
  for (const std::string_view option : split(options, ',')) {
    const size_t sign = option.find('=');
    const std::string_view key = option.substr(0, sign);
    if (key == "lowerdir+")
      lower.append(lower.empty() ? "lowerdir=" : ":").append(option.substr(sign + 1));
    else if (key == "datadir+")
      lower.append("::").append(option.substr(sign + 1));
    else if (key != "rw" && key != "ro")
      others.append(others.empty() ? "" : ",").append(option);
  }
  return lower + (lower.empty() || others.empty() ? "" : ",") + others;
}

// Where nobody else sees it.
Fd mounted_apart(const std::string& point, const std::function<void()>& mount) {
  Fd made;
  in_helper_process(
      [&] {
        if (::unshare(CLONE_NEWNS) != 0 ||
            ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
          throw_errno("cannot make a mount namespace");
        mount();
        made = Fd(::open_tree(AT_FDCWD, point.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
        if (!made.valid()) throw_errno("cannot hold an overlay");
      },
      HelperDescriptors::kOurs);
  return made;
}

}  // namespace

Fd make_overlay(const std::string& source, const std::string& options) {
  return mounted_apart(kStage,
                       [&] { mount_at("overlay", source, kStage, in_one_string(options)); });
}

Fd make_scratch_overlay(const std::string& source, std::span<const std::string> layers,
                        const std::string& options) {
  std::string all = fmt::format("lowerdir={0},upperdir={1}/upper,workdir={1}/work",
                                fmt::join(layers, ":"), kStage);
  for (const std::string_view option : split(options, ',')) {
    const std::string_view key = option.substr(0, option.find('='));
    const bool is_about_layers = key.find("dir") != key.npos && key != "redirect_dir";
    if (!is_about_layers && key != "rw" && key != "ro") all.append(",").append(option);
  }
  const std::string merged = kStage + "/merged";
  return mounted_apart(merged, [&] {
    mount_at("tmpfs", "", kStage, "mode=755");
    for (const char* name : {"/upper", "/work", "/merged"}) make_directory(kStage + name);
    struct stat status {};
    if (::stat(layers.front().c_str(), &status) == 0 &&
        (::chown((kStage + "/upper").c_str(), status.st_uid, status.st_gid) != 0 ||
         ::chmod((kStage + "/upper").c_str(), status.st_mode & 07777) != 0))
      throw_errno("cannot make the upper layer of an overlay");
    mount_at("overlay", source, merged, all);
  });
}

}  // namespace snapgdb
