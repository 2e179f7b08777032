#pragma once

#include "core/capture.h"

namespace snapgdb::cli {

// Says on stderr what the image holds and what it lacks. Returns the exit status: 3 if something is
// missing from it.
int report_capture(const Capture& capture, const CaptureReport& report);

// "12 processes", "1 process"
std::string counted(size_t count, std::string_view noun, std::string_view plural_ending = "s");

}  // namespace snapgdb::cli
