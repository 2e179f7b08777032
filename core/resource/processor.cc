#include "core/resource/processor.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

#include "core/base/strings.h"
#include "core/linux/host.h"

namespace snapgdb {
namespace {

// Instructions that programs choose at their start where they are there: the flags of
// /proc/cpuinfo that are not about the kernel's own business.
constexpr std::string_view kInstructions[] = {
    "cx16",        "sse3",        "pni",           "ssse3",
    "sse4_1",      "sse4_2",      "sse4a",         "movbe",
    "popcnt",      "abm",         "lahf_lm",       "pclmulqdq",
    "aes",         "xsave",       "xsavec",        "avx",
    "f16c",        "fma",         "fma4",          "xop",
    "tbm",         "avx2",        "bmi1",          "bmi2",
    "adx",         "rdrand",      "rdseed",        "rdpid",
    "sha_ni",      "fsgsbase",    "erms",          "fsrm",
    "rtm",         "clflushopt",  "clwb",          "gfni",
    "vaes",        "vpclmulqdq",  "avx_vnni",      "avx512f",
    "avx512dq",    "avx512cd",    "avx512bw",      "avx512vl",
    "avx512ifma",  "avx512vbmi",  "avx512_vbmi2",  "avx512_vnni",
    "avx512_bf16", "avx512_fp16", "avx512_bitalg", "avx512_vpopcntdq",
    "amx_tile",    "amx_int8",    "amx_bf16",      "movdiri",
    "movdir64b",   "waitpkg",     "serialize",     "pku",
    "ospke"};

constexpr size_t kHeaderAt = 512, kHeaderEnd = 576;
// Every task has a value for it where there are protection keys, also who uses none.
constexpr uint64_t kPkru = uint64_t{1} << 9;

std::vector<std::string_view> lacking(std::string_view then, std::string_view now) {
  const auto had = split_blank(then), has = split_blank(now);
  std::vector<std::string_view> lacks;
  for (const std::string_view name : kInstructions)
    if (std::ranges::count(had, name) && !std::ranges::count(has, name)) lacks.push_back(name);
  return lacks;
}

}  // namespace

uint64_t components_in_use(const std::string& xstate) {
  uint64_t in_use = 0;
  if (xstate.size() >= kHeaderEnd) std::memcpy(&in_use, xstate.data() + kHeaderAt, sizeof in_use);
  return in_use;
}

void check_processor(const Snapshot& snapshot, bool go_without, RestorePlan& plan) {
  const HostDescription now = describe_host();
  const std::string help = "restore it on a machine with such a processor";
  for (const pb::Process& process : snapshot.processes())
    for (const pb::Thread& thread : process.threads())
      if (const uint64_t lost = components_in_use(thread.xstate()) & ~now.xcr0 & ~kPkru)
        plan.obstacles.push_back(
            {process.pid(), fmt::format("registers of thread {}", thread.tid()),
             fmt::format("this processor has no room for those in use (XCR0 lacks {:#x})", lost),
             help});
  const auto lacks = lacking(snapshot.record().host().cpu_features(), now.cpu_features);
  if (lacks.empty()) return;
  const auto why = fmt::format("it lacks {}, which programs may be using", fmt::join(lacks, ", "));
  if (go_without)
    plan.notes.push_back("processor: " + why);
  else
    plan.obstacles.push_back({0, "processor", why, help + ", or --without processor"});
}

std::string xstate_here(const pb::Host& then, const std::string& xstate) {
  const HostDescription now = describe_host();
  const auto is_same = [](const XstateRange& here, const pb::XstateComponent& there) {
    return here.number == there.number() && here.offset == there.offset() &&
           here.size == there.size();
  };
  if (xstate.size() < kHeaderEnd || std::ranges::equal(now.xstate, then.xstate(), is_same))
    return xstate;
  std::string out = xstate.substr(0, kHeaderEnd);
  uint64_t kept = 3;  // x87 and SSE
  for (const XstateRange& here : now.xstate) {
    out.resize(std::max<size_t>(out.size(), here.offset + here.size));
    for (const pb::XstateComponent& there : then.xstate())
      if (there.number() == here.number && there.size() == here.size &&
          there.offset() + there.size() <= xstate.size()) {
        xstate.copy(out.data() + here.offset, here.size, there.offset());
        kept |= uint64_t{1} << here.number;
      }
  }
  const uint64_t in_use = components_in_use(xstate) & kept;
  std::memcpy(out.data() + kHeaderAt, &in_use, sizeof in_use);
  return out;
}

}  // namespace snapgdb
