#include "core/base/strings.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

// /proc/PID/timers, for each POSIX timer: "ID: 0", "signal: 60/00007fff86e452a8",
// "notify: signal/pid.2634", "ClockID: 0". The time left is not there.
void capture(CaptureContext&, const FrozenProcess& frozen, pb::Process& process) {
  const std::string text = frozen.proc.read_if_allowed("timers").value_or("");
  for (const std::string_view line : split(text, '\n')) {
    const size_t colon = line.find(':');
    const std::string_view key = line.substr(0, colon), value = trim(line.substr(colon + 1));
    if (key == "ID") process.add_timers()->set_id(parse_number<uint32_t>(value).value_or(0));
    if (process.timers().empty()) continue;
    pb::PosixTimer& timer = *process.mutable_timers()->rbegin();
    if (key == "signal") {
      const size_t slash = value.find('/');
      timer.set_signal(parse_number<uint32_t>(value.substr(0, slash)).value_or(0));
      timer.set_value(parse_number<uint64_t>(value.substr(slash + 1), 16).value_or(0));
    } else if (key == "notify") {
      timer.set_notify(printable(value));
    } else if (key == "ClockID") {
      timer.set_clock(parse_number<int32_t>(value).value_or(0));
    }
  }
}

}  // namespace

const ProcessResource kTimers{"timers", capture};

}  // namespace snapgdb
