#pragma once

#include <optional>
#include <span>
#include <string>

#include "core/base/fd.h"

namespace snapgdb {

// An overlay (Documentation/filesystems/overlayfs.rst) that is mounted nowhere yet, by options as
// mountinfo tells them. By mount(2): of fsconfig(2)'s strings none has more than 255 bytes, and
// layers need more. Throws SystemError.
Fd make_overlay(const std::string& source, const std::string& options);

// The same for who shall not change its layers (the uppermost first): what is written comes into
// memory above them, and is gone with it.
Fd make_scratch_overlay(const std::string& source, std::span<const std::string> layers,
                        const std::string& options);

}  // namespace snapgdb
