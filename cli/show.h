#pragma once

#include <string>

namespace snapgdb::cli {

// What is in an image, in a few lines, on stdout. Returns the exit status.
int show_summary(const std::string& image);

}  // namespace snapgdb::cli
