#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/error.h"
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

// ---- Restoring ----------------------------------------------------------------------------------

bool maps(const pb::Vma& vma, const pb::Descriptor& descriptor) {
  return vma.inode() == descriptor.inode() && vma.name().starts_with(kPrefix);
}

std::string obstacle(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  if (descriptor.size() == 0) return "";
  for (const pb::Process& process : snapshot.processes())
    for (const pb::Vma& vma : process.mappings())
      if (maps(vma, descriptor)) return "";
  return "its content is not in the image, since no process had it mapped";
}

// Its content comes with the mappings. Seals, which would be in the way, are set by the processes.
Fd open_memfd(OpeningContext& context, const pb::Descriptor& descriptor) {
  const auto [known, is_new] =
      context.objects.try_emplace({descriptor.device(), descriptor.inode()});
  Fd& object = known->second;
  if (is_new) {
    object = Fd(::memfd_create(descriptor.memfd().name().c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!object.valid() || ::ftruncate(object.get(), static_cast<off_t>(descriptor.size())) != 0)
      throw_errno("cannot make a memfd of {} bytes", descriptor.size());
  }
  // The first description is the memfd itself; another one is opened through it, and has
  // O_LARGEFILE then.
  constexpr uint32_t kKept = O_ACCMODE | O_APPEND | O_NONBLOCK;
  const auto flags = static_cast<int>(descriptor.flags() & kKept);
  Fd file(is_new && flags == O_RDWR
              ? ::fcntl(object.get(), F_DUPFD_CLOEXEC, 0)
              : ::open(fmt::format("/proc/self/fd/{}", object.get()).c_str(), flags | O_CLOEXEC));
  if (!file.valid() || ::lseek(file.get(), static_cast<off_t>(descriptor.position()), SEEK_SET) < 0)
    throw_errno("cannot open a memfd");
  return file;
}

}  // namespace

const DescriptorResource kMemfd{"memfd", matches, capture};
const DescriptorRestorer kMemfdRestorer{pb::Descriptor::kMemfd, obstacle, open_memfd};

}  // namespace snapgdb
