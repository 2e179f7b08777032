#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/error.h"
#include "core/base/strings.h"
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
  out.set_nameless(nameless_id(context, open));
}

// ---- Restoring ----------------------------------------------------------------------------------

// What is sealed against writing has its content already, and can be mapped only as it was mapped
// once it is sealed.
void seal_against_writing(const Fd& memfd, const pb::Descriptor& descriptor) {
  if (descriptor.memfd().seals() & F_SEAL_WRITE &&
      ::fcntl(memfd.get(), F_ADD_SEALS, F_SEAL_WRITE) != 0)
    throw_errno("cannot seal {}", printable(descriptor.target()));
}

// Other seals, which would be in the way, are set last (RestoredTree::seal_memfds).
Fd open_memfd(OpeningContext& context, const pb::Descriptor& descriptor) {
  const bool is_new = !context.objects.contains(OpeningContext::key_of(descriptor));
  const Fd& object = nameless_object(context, descriptor);
  if (is_new && descriptor.nameless()) seal_against_writing(object, descriptor);
  // The first description is the memfd itself; another one is opened through it, and has
  // O_LARGEFILE then.
  constexpr uint32_t kKept = O_ACCMODE | O_APPEND | O_NONBLOCK | O_PATH;
  const uint32_t flags = descriptor.flags() & kKept;
  return open_again(object, flags, descriptor, is_new && flags == O_RDWR);
}

}  // namespace

const DescriptorResource kMemfd{"memfd", matches, capture};
const DescriptorRestorer kMemfdRestorer{pb::Descriptor::kMemfd, why_not_in_image, open_memfd};

}  // namespace snapgdb
