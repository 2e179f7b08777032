#pragma once

#include "core/capture.h"

namespace snapgdb::cli {

// Says on stderr what the image holds and what it lacks. Returns the exit status: 3 if something is
// missing from it.
int report_capture(const Capture& capture, const CaptureReport& report);

}  // namespace snapgdb::cli
