#include "cli/report.h"

#include "core/base/error.h"
#include "core/base/say.h"
#include "core/base/strings.h"
#include "core/image/extents.h"
#include "core/image/missing.h"
#include "core/inspect/words.h"

namespace snapgdb::cli {

int report_capture(const Capture& capture, const CaptureReport& report) {
  const pb::SnapshotRecord& record = report.record;
  const uint64_t pages = record.stored_pages() + record.shared_pages() + record.zero_pages();
  say("{}, {}, {} of memory and files in {}; stopped for {}; image {}\n",
      counted(report.processes, "process", "processes"),
      counted(report.threads, "thread", "threads"), human_size(pages * kPageSize),
      human_duration(report.wall_ns), human_duration(record.pause_ns()),
      human_size(capture.bytes_written()));
  for (const std::string& line : missing_lines(record)) say("snapgdb: {}\n", line);
  return static_cast<int>(record.missing().empty() ? ExitStatus::kDone : ExitStatus::kIncomplete);
}

}  // namespace snapgdb::cli
