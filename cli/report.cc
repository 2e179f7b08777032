#include "cli/report.h"

#include <cstdio>

#include "core/base/error.h"
#include "core/base/say.h"
#include "core/base/strings.h"
#include "core/image/extents.h"
#include "core/inspect/words.h"

namespace snapgdb::cli {
namespace {

constexpr int kMissingShown = 10;

void list_missing(const pb::SnapshotRecord& record) {
  int shown = 0;
  for (const pb::Missing& missing : record.missing()) {
    if (++shown > kMissingShown) {
      say("snapgdb: … and {} more: snapgdb show IMG missing\n",
          record.missing_size() - kMissingShown);
      return;
    }
    const int32_t who = missing.tid() ? missing.tid() : missing.pid();
    say("snapgdb: missing from the image: {}{}: {}\n", printable(missing.resource()),
        who ? fmt::format(" of {}", who) : std::string(), printable(missing.reason()));
  }
}

}  // namespace

int report_capture(const Capture& capture, const CaptureReport& report) {
  const pb::SnapshotRecord& record = report.record;
  const uint64_t pages = record.stored_pages() + record.shared_pages() + record.zero_pages();
  say("{}, {}, {} of memory and files in {}; stopped for {}; image {}\n",
      counted(report.processes, "process", "processes"),
      counted(report.threads, "thread", "threads"), human_size(pages * kPageSize),
      human_duration(report.wall_ns), human_duration(record.pause_ns()),
      human_size(capture.bytes_written()));
  list_missing(record);
  return static_cast<int>(record.missing().empty() ? ExitStatus::kDone : ExitStatus::kIncomplete);
}

}  // namespace snapgdb::cli
