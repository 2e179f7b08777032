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

size_t queued_in(const Fd& end) {
  int queued = 0;
  if (::ioctl(end.get(), FIONREAD, &queued) != 0) throw_errno("cannot look into a pipe");
  return static_cast<size_t>(queued);
}

// Another pipe with what is queued, which stays where it is: tee(2) duplicates it, packets as such.
PipeEnds copy_of(const Fd& end, int capacity, size_t queued) {
  PipeEnds copy = make_pipe(O_NONBLOCK);
  if (::fcntl(copy.write.get(), F_SETPIPE_SZ, capacity) < 0)
    throw_errno("cannot make a pipe of {} bytes", capacity);
  if (::tee(end.get(), copy.write.get(), queued, SPLICE_F_NONBLOCK) < 0)
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

// Whether the rest is lost of what begins, or ends, with a packet, if only so many bytes are read.
bool is_rest_lost(const Fd& copy, size_t read) {
  const size_t before = queued_in(copy);
  read_once(copy, read);
  return queued_in(copy) + read != before;
}

// Of one byte, the last one, nothing can be lost; but what comes behind is not read with a packet.
bool is_packet_of_a_byte(const PipeEnds& copy) {
  write_all(copy.write.get(), std::as_bytes(std::span("", 1)), "a pipe");
  return read_once(copy.read, 2).size() == 1;
}

// Packets are no flag of the pipe, but of what was written while its end had O_DIRECT: pipe(2).
void record_content(const Fd& end, int capacity, pb::Pipe& pipe) {
  const size_t queued = pipe.queued();
  const PipeEnds copy = copy_of(end, capacity, queued), beginnings = copy_of(end, capacity, queued),
                 ends = copy_of(end, capacity, queued);
  std::vector<uint32_t> sizes;
  while (const size_t left = queued_in(copy.read)) {
    const std::string piece = read_once(copy.read, left);
    pipe.mutable_content()->append(piece);
    sizes.push_back(static_cast<uint32_t>(piece.size()));
    bool begins = true, is_ended = true;
    if (piece.size() > 1) {
      begins = is_rest_lost(beginnings.read, 1);
      is_ended = is_rest_lost(ends.read, piece.size() - 1);
    } else if (left == 1) {
      begins = is_ended = is_packet_of_a_byte(ends);
    } else {
      read_once(beginnings.read, 1), read_once(ends.read, 1);
    }
    if (begins && is_ended) continue;
    if (!begins && !is_ended && piece.size() == queued) return;
    pipe.clear_content();
    throw Error("cannot tell what is queued in a pipe", "some of it is in packets, some is not");
  }
  pipe.mutable_packets()->Assign(sizes.begin(), sizes.end());
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
  const bool reads = (open.info.number("flags", 8) & O_ACCMODE) != O_WRONLY;
  if (pipe.queued() == 0 || !reads || !context.takes_content_of(open.status.st_ino)) return;
  try {
    record_content(end, capacity, pipe);
  } catch (const Error& error) {
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

PipeEnds make_pipe_like(const pb::Descriptor& descriptor) {
  const pb::Pipe& pipe = descriptor.pipe();
  PipeEnds made = pipe.fifo() ? open_fifo(descriptor) : make_pipe();
  if (pipe.capacity() &&
      ::fcntl(made.write.get(), F_SETPIPE_SZ, static_cast<int>(pipe.capacity())) < 0)
    throw_errno("cannot give a pipe {} bytes", pipe.capacity());
  return made;
}

void write_packets(const Fd& end, const pb::Pipe& pipe) {
  const int flags = ::fcntl(end.get(), F_GETFL);
  const auto set = [&](int wanted) {
    if (flags < 0 || ::fcntl(end.get(), F_SETFL, wanted) != 0)
      throw_errno("cannot write packets to a pipe");
  };
  set(flags | O_DIRECT);
  auto rest = std::as_bytes(std::span(pipe.content()));
  for (const uint32_t size : pipe.packets()) {
    if (size > rest.size())
      throw Error("cannot fill a pipe", "its packets are larger than its content");
    write_all(end.get(), rest.first(size), "a pipe");
    rest = rest.subspan(size);
  }
  set(flags);
}

// Not beside what others have queued in it: it may be the same.
void queue_content(const Fd& end, const pb::Pipe& pipe) {
  if (queued_in(end) != 0) return;
  if (!pipe.packets().empty()) return write_packets(end, pipe);
  write_all(end.get(), std::as_bytes(std::span(pipe.content())), "a pipe");
}

// The first description of an end is the end itself; another one is opened through it, and has
// O_LARGEFILE then.
Fd open_end(OpeningContext& context, const pb::Descriptor& descriptor) {
  const auto [known, is_new] = context.pipes.try_emplace(descriptor.inode());
  OpeningContext::OpenPipe& pipe = known->second;
  if (is_new) pipe.ends = make_pipe_like(descriptor);
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
  Fd another = reopened(end, status | static_cast<int>(access));
  if (!another.valid()) throw_errno("cannot open an end of a pipe");
  return another;
}

}  // namespace

const DescriptorResource kPipe{"pipe", matches, capture};
const DescriptorRestorer kPipeRestorer{pb::Descriptor::kPipe, obstacle, open_end};

}  // namespace snapgdb
