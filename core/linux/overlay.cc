#include "core/linux/overlay.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <functional>
#include <utility>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/helper_process.h"
#include "core/linux/mounting.h"

namespace snapgdb {
namespace {

void append(std::string& list, std::string_view separator, std::string_view element) {
  if (!list.empty()) list.append(separator);
  list.append(element);
}

std::string in_words(const OverlayOptions& options) {
  std::string words = "lowerdir=" + options.lower;
  if (!options.upper.empty()) words += ",upperdir=" + options.upper + ",workdir=" + options.work;
  if (!options.others.empty()) words += "," + options.others;
  return words;
}

void mount_overlay(const std::string& source, const OverlayOptions& options,
                   const std::string& point) {
  const std::string words = in_words(options);
  if (::mount(source.empty() ? "none" : source.c_str(), point.c_str(), "overlay", 0,
              words.c_str()) != 0)
    throw_errno("cannot make an overlay with {}", printable(words));
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

std::vector<std::string> OverlayOptions::layers() const {
  std::vector<std::string> all;
  if (!upper.empty()) all.push_back(upper);
  for (const std::string_view layer : split(lower, ':'))
    if (!layer.empty()) all.emplace_back(layer);
  return all;
}

OverlayOptions parse_overlay_options(std::string_view options) {
  OverlayOptions parsed;
  for (const std::string_view option : split(options, ',')) {
    const size_t sign = option.find('=');
    const std::string_view key = option.substr(0, sign),
                           value = sign == option.npos ? "" : option.substr(sign + 1);
    if (key == "lowerdir" || key == "lowerdir+")
      append(parsed.lower, ":", value);
    else if (key == "datadir+")
      append(parsed.lower, "::", value);
    else if (key == "upperdir")
      parsed.upper = value;
    else if (key == "workdir")
      parsed.work = value;
    else if (key != "rw" && key != "ro")  // that is said of the mount
      append(parsed.others, ",", option);
  }
  return parsed;
}

Fd make_overlay(const std::string& source, const OverlayOptions& options) {
  return mounted_apart(kStage, [&] { mount_overlay(source, options, kStage); });
}

Fd make_scratch_overlay(const std::string& source, OverlayOptions options) {
  if (options.upper.empty()) return make_overlay(source, options);
  const std::string below = std::exchange(options.upper, kStage + "/upper");
  options.lower = below + ":" + options.lower;
  options.work = kStage + "/work";
  const std::string merged = kStage + "/merged";
  return mounted_apart(merged, [&] {
    mount_at(kStage, "tmpfs", 0, "mode=755");
    for (const std::string& path : {options.upper, options.work, merged}) make_directory(path);
    struct stat status {};
    if (::stat(below.c_str(), &status) == 0) imitate_attributes(status, options.upper);
    mount_overlay(source, options, merged);
  });
}

}  // namespace snapgdb
