#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/base/fd.h"

namespace snapgdb {

// Of an overlay (Documentation/filesystems/overlayfs.rst).
struct OverlayOptions {
  std::string lower = {};             // "/a:/b::/data", the uppermost first
  std::string upper = {}, work = {};  // "": it cannot be written to
  std::string others = {};            // "redirect_dir=on,userxattr"

  // All layers, the uppermost first.
  std::vector<std::string> layers() const;
};
// As mountinfo tells them, where layers may be named one by one (lowerdir+, Linux 6.8).
OverlayOptions parse_overlay_options(std::string_view options);

// One that is mounted nowhere yet. By mount(2): of fsconfig(2)'s strings none has more than 255
// bytes, and layers need more. Throws SystemError.
Fd make_overlay(const std::string& source, const OverlayOptions& options);

// The same for who shall not change its layers: what is written comes into memory above them, and
// is gone with it.
Fd make_scratch_overlay(const std::string& source, OverlayOptions options);

}  // namespace snapgdb
