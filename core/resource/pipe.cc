#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/reopened.h"
#include "core/resource/brief_name.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

bool matches(const OpenDescriptor& open) {
  return S_ISFIFO(open.status.st_mode);
}

// What is queued, which stays where it is: tee(2) duplicates it.
std::string content_of(int end, int capacity, size_t queued) {
  const auto [to_read, to_write] = make_pipe(O_NONBLOCK);
  if (::fcntl(to_write.get(), F_SETPIPE_SZ, capacity) < 0)
    throw_errno("cannot make a pipe of {} bytes", capacity);
  const ssize_t copied = ::tee(end, to_write.get(), queued, SPLICE_F_NONBLOCK);
  if (copied < 0) throw_errno("cannot copy what is queued in a pipe");
  std::string content(static_cast<size_t>(copied), '\0');
  for (size_t done = 0; done < content.size();) {
    const ssize_t n = ::read(to_read.get(), content.data() + done, content.size() - done);
    if (n <= 0) throw_errno("cannot read what is queued in a pipe");
    done += static_cast<size_t>(n);
  }
  return content;
}

// Both ends have the same inode; the access mode tells which end this is.
void capture(CaptureContext& context, const OpenDescriptor& open, pb::Descriptor& out) {
  pb::Pipe& pipe = *out.mutable_pipe();
  pipe.set_fifo(!open.target.starts_with("pipe:["));
  out.set_removed(pipe.fifo() && open.status.st_nlink == 0);
  const Fd end = duplicate_descriptor(open.process.a_task(), open.number);
  int queued = 0;
  const int capacity = end.valid() ? ::fcntl(end.get(), F_GETPIPE_SZ) : -1;
  if (capacity < 0 || ::ioctl(end.get(), FIONREAD, &queued) != 0) {
    context.lacks(open.process.pid, {}, "queue of " + open.target, "pidfd_getfd(2) is refused");
    return;
  }
  pipe.set_capacity(static_cast<uint32_t>(capacity));
  pipe.set_queued(static_cast<uint32_t>(queued));
  const bool reads = (open.info.number("flags", 8) & O_ACCMODE) != O_WRONLY;
  if (queued > 0 && reads && context.takes_content_of(open.status.st_ino))
    pipe.set_content(content_of(end.get(), capacity, static_cast<size_t>(queued)));
}

// ---- Restoring ----------------------------------------------------------------------------------

std::string obstacle(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  return descriptor.pipe().fifo() ? path_obstacle(snapshot, descriptor) : "";
}

// Of one with a name, both ends may read and write meanwhile: so opening it again waits for nobody.
PipeEnds open_fifo(const pb::Descriptor& descriptor) {
  const BriefName name(descriptor);
  const std::string& path = name.path();
  const auto open = [&] {
    Fd end(::open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
    struct stat status {};
    if (!end.valid() || ::fstat(end.get(), &status) != 0)
      throw_errno("cannot open {}", printable(path));
    if (!S_ISFIFO(status.st_mode)) throw Error("cannot open " + printable(path), "it is no FIFO");
    return end;
  };
  return {open(), open()};
}

PipeEnds make_pipe_like(const pb::Descriptor& descriptor) {
  const pb::Pipe& pipe = descriptor.pipe();
  PipeEnds made = pipe.fifo() ? open_fifo(descriptor) : make_pipe();
  if (pipe.capacity() &&
      ::fcntl(made.write.get(), F_SETPIPE_SZ, static_cast<int>(pipe.capacity())) < 0)
    throw_errno("cannot give a pipe {} bytes", pipe.capacity());
  return made;
}

// Not beside what others have queued in it: it may be the same.
void queue_content(const Fd& end, const std::string& content) {
  int queued = 0;
  if (::ioctl(end.get(), FIONREAD, &queued) != 0) throw_errno("cannot look into a pipe");
  if (queued == 0) write_all(end.get(), std::as_bytes(std::span(content)), "a pipe");
}

// The first description of an end is the end itself; another one is opened through it, and has
// O_LARGEFILE then.
Fd open_end(OpeningContext& context, const pb::Descriptor& descriptor) {
  const auto [known, is_new] = context.pipes.try_emplace(descriptor.inode());
  OpeningContext::OpenPipe& pipe = known->second;
  if (is_new) pipe.ends = make_pipe_like(descriptor);
  if (const std::string& content = descriptor.pipe().content(); !content.empty())
    queue_content(pipe.ends.write, content);
  const uint32_t access = descriptor.flags() & O_ACCMODE;
  const Fd& end = access == O_RDONLY ? pipe.ends.read : pipe.ends.write;
  bool& taken = access == O_RDONLY ? pipe.read_taken : pipe.write_taken;
  const auto status = static_cast<int>(descriptor.flags() & (O_NONBLOCK | O_DIRECT));
  if (access != O_RDWR && !descriptor.pipe().fifo() && !std::exchange(taken, true)) {
    Fd same(::fcntl(end.get(), F_DUPFD_CLOEXEC, 0));
    if (!same.valid() || ::fcntl(same.get(), F_SETFL, status) != 0)
      throw_errno("cannot duplicate an end of a pipe");
    return same;
  }
  Fd another = reopened(end, status | static_cast<int>(access));
  if (!another.valid()) throw_errno("cannot open an end of a pipe");
  return another;
}

}  // namespace

const DescriptorResource kPipe{"pipe", matches, capture};
const DescriptorRestorer kPipeRestorer{pb::Descriptor::kPipe, obstacle, open_end};

}  // namespace snapgdb
