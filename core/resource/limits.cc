#include "core/base/strings.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

// prlimit(2) on another user's task needs CAP_SYS_RESOURCE; /proc/PID/limits has the numbers:
// "Max stack size            8388608              unlimited            bytes"
constexpr size_t kNameWidth = 26, kNumberWidth = 21;  // fs/proc/base.c, proc_pid_limits

uint64_t number(std::string_view text) {
  return parse_number<uint64_t>(trim(text)).value_or(UINT64_MAX);  // "unlimited"
}

void capture(CaptureContext&, const FrozenProcess& frozen, pb::Process& process) {
  const std::string text = frozen.proc.read("limits");
  auto lines = split(text, '\n');
  for (const std::string_view line : lines) {
    if (line.starts_with("Limit ") || line.size() < kNameWidth + kNumberWidth) continue;
    pb::Limit& limit = *process.add_limits();
    limit.set_name(std::string(trim(line.substr(0, kNameWidth))));
    limit.set_soft(number(line.substr(kNameWidth, kNumberWidth)));
    limit.set_hard(number(line.substr(kNameWidth + kNumberWidth, kNumberWidth)));
  }
}

}  // namespace

const ProcessResource kLimits{"limits", capture};

}  // namespace snapgdb
