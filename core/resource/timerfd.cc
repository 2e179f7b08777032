#include "core/base/strings.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

bool matches(const OpenDescriptor& open) {
  return open.target == "anon_inode:[timerfd]";
}

// "(seconds, nanoseconds)"
uint64_t nanoseconds(std::string_view text) {
  const size_t comma = text.find(',');
  if (!text.starts_with('(') || !text.ends_with(')') || comma == std::string_view::npos) return 0;
  const auto whole = parse_number<uint64_t>(trim(text.substr(1, comma - 1)));
  const auto rest = parse_number<uint64_t>(trim(text.substr(comma + 1, text.size() - comma - 2)));
  return whole.value_or(0) * 1'000'000'000 + rest.value_or(0);
}

void capture(CaptureContext&, const OpenDescriptor& open, pb::Descriptor& out) {
  pb::TimerFd& timerfd = *out.mutable_timerfd();
  timerfd.set_clock(static_cast<int32_t>(open.info.number("clockid")));
  timerfd.set_ticks(open.info.number("ticks"));
  timerfd.set_settime_flags(static_cast<uint32_t>(open.info.number("settime flags", 8)));
  timerfd.set_value_ns(nanoseconds(open.info.text("it_value")));
  timerfd.set_interval_ns(nanoseconds(open.info.text("it_interval")));
}

}  // namespace

const DescriptorResource kTimerFd{"timerfd", matches, capture};

}  // namespace snapgdb
