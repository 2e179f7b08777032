#pragma once

#include <optional>
#include <string>

#include "core/image/image_reader.h"

namespace snapgdb::cli {

// What is in an image, in a few lines, on stdout; of the processes, perhaps only one. Returns the
// exit status.
int show_summary(const std::string& image, const OpenOptions& open, std::optional<int> pid);

}  // namespace snapgdb::cli
