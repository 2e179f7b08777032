#include <algorithm>

#include "core/resource/resources.h"

namespace snapgdb {
namespace {

struct Known {
  std::string_view prefix;  // of the target
  const char *name, *why_lost;
};

constexpr const char* kKernels = "what it is made of is the kernel's, which does not show it";

constexpr Known kKnown[] = {
    {"anon_inode:[userfaultfd]", "userfaultfd",
     "faults that wait in it, and who handles them, are not shown"},
    {"anon_inode:[perf_event]", "perf event", "what it counts is not shown"},
    {"anon_inode:bpf-map", "bpf map", "it belongs to the kernel's programs"},
    {"anon_inode:bpf-prog", "bpf program", "it belongs to the kernel"},
    {"anon_inode:bpf", "bpf object", "it belongs to the kernel"},
    {"anon_inode:btf", "bpf types", "they belong to the kernel"},
    {"anon_inode:[landlock-ruleset]", "landlock ruleset", "its rules are not shown"},
    {"anon_inode:[fscontext]", "file system to be mounted", kKernels},
    {"anon_inode:seccomp notify", "listener to seccomp filters",
     "who waits for its answers cannot be restored"},
    {"anon_inode:kvm-vm", "virtual machine (KVM)", kKernels},
    {"anon_inode:kvm-vcpu", "virtual processor (KVM)", kKernels},
    {"anon_inode:kvm", "part of a virtual machine (KVM)", kKernels},
    {"anon_inode:[vfio", "device of a virtual machine (VFIO)", kKernels},
    {"anon_inode:sync_file", "fence of a device", kKernels},
    {"anon_inode:dma", "buffer of a device", kKernels},
    {"/dmabuf:", "buffer of a device", kKernels},
    {"/secretmem", "secret memory", "only who has it mapped can read it (memfd_secret(2))"},
};

const Known* known(std::string_view target) {
  const auto found = std::ranges::find_if(
      kKnown, [&](const Known& one) { return target.starts_with(one.prefix); });
  return found == std::end(kKnown) ? nullptr : &*found;
}

bool matches(const OpenDescriptor&) {
  return true;
}

// A file without a name like others, but one that cannot be read.
bool is_secret(const OpenDescriptor& open) {
  return open.deleted && open.target == "/secretmem";
}

// In the kernel's own words, and what that is.
void capture(CaptureContext&, const OpenDescriptor& open, pb::Descriptor& out) {
  pb::OtherDescriptor& other = *out.mutable_other();
  other.set_what(open.target);
  other.set_fdinfo(std::string(open.info_text));
  const Known* what = known(open.target);
  if (!what) return;
  other.set_name(what->name);
  other.set_why_lost(what->why_lost);
}

}  // namespace

const DescriptorResource kSecretMemory{"secret memory", is_secret, capture};
const DescriptorResource kOther{"other", matches, capture};

}  // namespace snapgdb
