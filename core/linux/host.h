#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace snapgdb {

// The machine and its kernel, as a snapshot has to remember them.
struct XstateRange {
  uint32_t number = 0, offset = 0, size = 0;  // CPUID leaf 0xd, sub-leaf `number`
};
struct HostDescription {
  std::string node_name, os_release, os_version, machine;
  uint32_t page_size = 0, clock_ticks_per_second = 0, processors = 0;
  std::string cpu_vendor, cpu_model, cpu_features;
  uint64_t xcr0 = 0;
  std::vector<XstateRange> xstate;
};
HostDescription describe_host();

}  // namespace snapgdb
