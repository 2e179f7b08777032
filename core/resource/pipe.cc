#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/reopened.h"
#include "core/resource/brief_name.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

bool matches(const OpenDescriptor& open) {
  return S_ISFIFO(open.status.st_mode) && !open.is_name_only();
}

size_t queued_in(const Fd& end) {
  int queued = 0;
  if (::ioctl(end.get(), FIONREAD, &queued) != 0) throw_errno("cannot look into a pipe");
  return static_cast<size_t>(queued);
}

// Another pipe with the first `size` bytes of what is queued, which stays where it is: tee(2)
// duplicates it, packets as such.
PipeEnds copy_of(const Fd& end, size_t size, int capacity = 0) {
  PipeEnds copy = make_pipe(O_NONBLOCK);
  if (capacity && ::fcntl(copy.write.get(), F_GETPIPE_SZ) != capacity &&
      ::fcntl(copy.write.get(), F_SETPIPE_SZ, capacity) < 0)
    throw_errno("cannot make a pipe of {} bytes", capacity);
  if (::tee(end.get(), copy.write.get(), size, SPLICE_F_NONBLOCK) < 0)
    throw_errno("cannot copy what is queued in a pipe");
  return copy;
}

// What one read(2) gets of that many bytes: at most one packet, of which the rest is lost.
std::string read_once(const Fd& copy, size_t size) {
  std::string bytes(size, '\0');
  const ssize_t n = ::read(copy.get(), bytes.data(), bytes.size());
  if (n <= 0) throw_errno("cannot read what is queued in a pipe");
  bytes.resize(static_cast<size_t>(n));
  return bytes;
}

// Of one that has more than a byte, reading less loses the rest; one of a byte ends what is read.
bool begins_with_packet(const Fd& end) {
  if (read_once(copy_of(end, 2).read, 2).size() == 1) return true;
  const PipeEnds copy = copy_of(end, 2);
  read_once(copy.read, 1);
  return queued_in(copy.read) == 0;
}

// Of the last byte, nothing can be lost; but what comes behind is not read with a packet.
bool is_packet_of_a_byte(const Fd& end) {
  const PipeEnds copy = copy_of(end, 1);
  write_all(copy.write.get(), std::as_bytes(std::span("", 1)), "a pipe");
  return read_once(copy.read, 2).size() == 1;
}

[[noreturn]] void refuse_mixture() {
  throw Error("cannot tell what is queued in a pipe", "some of it is in packets, some is not");
}

void record_packets(const Fd& end, int capacity, pb::Pipe& pipe) {
  const PipeEnds copy = copy_of(end, pipe.queued(), capacity);
  while (const size_t left = queued_in(copy.read)) {
    if (left == 1 ? !is_packet_of_a_byte(copy.read) : !begins_with_packet(copy.read))
      refuse_mixture();
    const std::string packet = read_once(copy.read, std::min<size_t>(left, PIPE_BUF));
    pipe.mutable_content()->append(packet);
    pipe.add_packets(static_cast<uint32_t>(packet.size()));
  }
}

// Its last byte by itself: a packet at the end would lose it to who reads less.
void record_stream(const Fd& end, int capacity, pb::Pipe& pipe) {
  const PipeEnds copy = copy_of(end, pipe.queued(), capacity);
  if (pipe.queued() > 1) pipe.set_content(read_once(copy.read, pipe.queued() - 1));
  if (queued_in(copy.read) != 1 || is_packet_of_a_byte(copy.read)) refuse_mixture();
  pipe.mutable_content()->append(read_once(copy.read, 1));
}

// Packets are no flag of the pipe, but of what was written while its end had O_DIRECT: pipe(2).
void record_content(const Fd& end, int capacity, pb::Pipe& pipe) {
  const bool in_packets = pipe.queued() == 1 ? is_packet_of_a_byte(end) : begins_with_packet(end);
  (in_packets ? record_packets : record_stream)(end, capacity, pipe);
}

// Both ends have the same inode; the access mode tells which end this is.
void capture(CaptureContext& context, const OpenDescriptor& open, pb::Descriptor& out) {
  pb::Pipe& pipe = *out.mutable_pipe();
  pipe.set_fifo(!open.target.starts_with("pipe:["));
  out.set_removed(pipe.fifo() && open.status.st_nlink == 0);
  const Fd end = duplicate_descriptor(open.process.a_task(), open.number);
  const int capacity = end.valid() ? ::fcntl(end.get(), F_GETPIPE_SZ) : -1;
  if (capacity < 0) {
    context.lacks(open.process.pid, {}, "queue of " + open.target, "pidfd_getfd(2) is refused");
    return;
  }
  pipe.set_capacity(static_cast<uint32_t>(capacity));
  pipe.set_queued(static_cast<uint32_t>(queued_in(end)));
  const auto access = open.info.number("flags", 8) & O_ACCMODE;
  // pipe_poll(), fs/pipe.c
  pollfd look{end.get(), 0, 0};
  ::poll(&look, 1, 0);
  pipe.set_alone(access != O_RDWR && look.revents & (access == O_RDONLY ? POLLHUP : POLLERR));
  const bool reads = access != O_WRONLY;
  if (pipe.queued() == 0 || !reads || !context.takes_content_of(open.status.st_ino)) return;
  try {
    record_content(end, capacity, pipe);
  } catch (const Error& error) {
    pipe.clear_content(), pipe.clear_packets();
    context.lacks(open.process.pid, {}, "queue of " + open.target, error.what());
  }
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

// A user with many pipes gets smaller ones, and none enlarged (fs.pipe-user-pages-soft, pipe(7)):
// as it may have been when the program made it.
PipeEnds make_pipe_like(OpeningContext& context, const pb::Descriptor& descriptor) {
  const pb::Pipe& pipe = descriptor.pipe();
  PipeEnds made = pipe.fifo() ? open_fifo(descriptor) : make_pipe();
  const int wanted = static_cast<int>(pipe.capacity()),
            given = ::fcntl(made.write.get(), F_GETPIPE_SZ);
  if (wanted == 0 || wanted == given || ::fcntl(made.write.get(), F_SETPIPE_SZ, wanted) >= 0)
    return made;
  if (errno != EPERM || pipe.queued() > static_cast<uint32_t>(given))
    throw_errno("cannot give a pipe {} bytes", wanted);
  const std::string note = fmt::format(
      "pipes hold {} bytes instead of {}: the user has very many of them", given, wanted);
  if (std::ranges::find(context.notes, note) == context.notes.end()) context.notes.push_back(note);
  return made;
}

void write_packets(const Fd& end, const pb::Pipe& pipe) {
  auto rest = std::as_bytes(std::span(pipe.content()));
  for (const uint32_t size : pipe.packets()) {
    if (size > rest.size())
      throw Error("cannot fill a pipe", "its packets are larger than its content");
    write_all(end.get(), rest.first(size), "a pipe");
    rest = rest.subspan(size);
  }
}

// Not beside what others have queued in it: it may be the same. Its end may be for packets already,
// and this a stream.
void queue_content(const Fd& end, const pb::Pipe& pipe) {
  if (queued_in(end) != 0) return;
  const int flags = ::fcntl(end.get(), F_GETFL);
  const auto set_flags = [&](int wanted) {
    if (flags < 0 || ::fcntl(end.get(), F_SETFL, wanted) != 0)
      throw_errno("cannot choose between packets and a stream");
  };
  set_flags((flags & ~O_DIRECT) | (pipe.packets().empty() ? 0 : O_DIRECT));
  if (pipe.packets().empty())
    write_all(end.get(), std::as_bytes(std::span(pipe.content())), "a pipe");
  else
    write_packets(end, pipe);
  set_flags(flags);
}

// The first description of an end is the end itself; another one is opened through it, and has
// O_LARGEFILE then.
Fd open_end(OpeningContext& context, const pb::Descriptor& descriptor) {
  const auto [known, is_new] = context.pipes.try_emplace(descriptor.inode());
  OpeningContext::OpenPipe& pipe = known->second;
  if (is_new) pipe.ends = make_pipe_like(context, descriptor);
  if (!descriptor.pipe().content().empty()) queue_content(pipe.ends.write, descriptor.pipe());
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
  // open(2) refuses O_DIRECT for pipes; fcntl(2) does not.
  Fd another = reopened(end, (status & ~O_DIRECT) | static_cast<int>(access));
  if (!another.valid() || (status & O_DIRECT && ::fcntl(another.get(), F_SETFL, status) != 0))
    throw_errno("cannot open an end of a pipe");
  return another;
}

}  // namespace

const DescriptorResource kPipe{"pipe", matches, capture};
const DescriptorRestorer kPipeRestorer{pb::Descriptor::kPipe, obstacle, open_end};

}  // namespace snapgdb
