#pragma once

#include <string>

#include "core/image/image_reader.h"

namespace snapgdb::cli {

// What is in an image, in a few lines, on stdout. Returns the exit status.
int show_summary(const std::string& image, const OpenOptions& open);

}  // namespace snapgdb::cli
