#include "core/image/missing.h"

#include <fmt/format.h>

#include "core/base/strings.h"

namespace snapgdb {

std::vector<std::string> missing_lines(const pb::SnapshotRecord& record) {
  constexpr size_t kShown = 10;
  std::vector<std::string> lines;
  for (const pb::Missing& missing : record.missing()) {
    if (lines.size() == kShown) {
      const size_t more = static_cast<size_t>(record.missing_size()) - kShown;
      lines.push_back(fmt::format("… and {} more: snapgdb show IMG missing", more));
      break;
    }
    const int32_t who = missing.tid() ? missing.tid() : missing.pid();
    lines.push_back(fmt::format("missing from the image: {}{}: {}", printable(missing.resource()),
                                who ? fmt::format(" of {}", who) : std::string(),
                                printable(missing.reason())));
  }
  return lines;
}

}  // namespace snapgdb
