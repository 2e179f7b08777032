#include <fcntl.h>

#include "core/resource/resources.h"

namespace snapgdb {
namespace {

constexpr std::string_view kPrefix = "/memfd:";

bool matches(const OpenDescriptor& open) {
  return S_ISREG(open.status.st_mode) && open.target.starts_with(kPrefix) && open.deleted;
}

void capture(CaptureContext& context, const OpenDescriptor& open, pb::Descriptor& out) {
  pb::Memfd& memfd = *out.mutable_memfd();
  memfd.set_name(open.target.substr(kPrefix.size()));
  const Fd file = duplicate_descriptor(open.process.a_task(), open.number);
  const int seals = file.valid() ? ::fcntl(file.get(), F_GET_SEALS) : -1;
  if (seals < 0)
    context.lacks(open.process.pid, {}, "seals of " + open.target, "pidfd_getfd(2) is refused");
  else
    memfd.set_seals(static_cast<uint32_t>(seals));
}

}  // namespace

const DescriptorResource kMemfd{"memfd", matches, capture};

}  // namespace snapgdb
