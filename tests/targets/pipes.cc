// Pipes and FIFOs with what is queued in them: streams and packets (O_DIRECT), of one byte and
// full, with a reader or a writer that is gone, with their ends in two processes. Each function
// sets something up, and returns what checks it at the end.

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <vector>

#include "target.h"

namespace {

using target::expect_call;
using target::expect_equal;
using target::setup;
using Check = std::function<void()>;

struct Ends {
  int read, write;
};
Ends open_pipe(int flags) {
  int ends[2];
  setup("pipe2", pipe2(ends, flags));
  return {ends[0], ends[1]};
}

std::string pattern(size_t size, unsigned seed) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(target::mix(seed + i));
  return bytes;
}

void fill(int fd, const std::string& bytes) {
  const ssize_t n = write(fd, bytes.data(), bytes.size());
  if (n != static_cast<ssize_t>(bytes.size())) target::cannot("write");
}

size_t queued(int fd) {
  int size = -1;
  expect_call("FIONREAD", ioctl(fd, FIONREAD, &size));
  return static_cast<size_t>(size);
}

void expect_read(const char* what, int fd, size_t size, const std::string& expected) {
  std::string seen(size, '\0');
  const long n = expect_call(what, read(fd, seen.data(), size));
  seen.resize(n < 0 ? 0 : static_cast<size_t>(n));
  if (seen != expected)
    target::differs("%s: %zu bytes are not the %zu that were expected", what, seen.size(),
                    expected.size());
}

void expect_empty(const char* what, int fd) {
  char byte;
  if (read(fd, &byte, 1) != -1 || errno != EAGAIN) target::differs("%s is not empty", what);
}

// One that has grown, is full to the last byte, and takes no more.
Check full() {
  constexpr int kSize = 1 << 20;
  const Ends ends = open_pipe(O_NONBLOCK);
  setup("F_SETPIPE_SZ", fcntl(ends.write, F_SETPIPE_SZ, kSize));
  const std::string content = pattern(kSize, 1);
  fill(ends.write, content);
  return [=] {
    expect_equal("the size of a full pipe", fcntl(ends.read, F_GETPIPE_SZ), kSize);
    expect_equal("a full pipe refuses", write(ends.write, "x", 1) < 0 && errno == EAGAIN, true);
    expect_read("a full pipe", ends.read, kSize + 1, content);
    expect_empty("a pipe that was full", ends.read);
  };
}

Check begun() {
  const Ends ends = open_pipe(O_NONBLOCK);
  fill(ends.write, "seven bytes are gone");
  expect_read("its beginning", ends.read, 7, "seven b");
  return [=] {
    fill(ends.write, ", more follow");
    expect_read("what was begun", ends.read, 100, "ytes are gone, more follow");
  };
}

// A reader gets one packet at a time, and loses what of it does not fit.
Check packets() {
  const Ends ends = open_pipe(O_DIRECT | O_NONBLOCK);
  const std::string largest = pattern(PIPE_BUF, 2);
  for (const std::string& packet : {std::string("1"), largest, std::string("two"), std::string("3"),
                                    std::string("only the first is read")})
    fill(ends.write, packet);
  return [=] {
    expect_equal("O_DIRECT", fcntl(ends.write, F_GETFL) & O_DIRECT, O_DIRECT);
    expect_read("a packet of a byte", ends.read, PIPE_BUF, "1");
    expect_read("a packet of a page", ends.read, 2 * PIPE_BUF, largest);
    expect_read("a short packet", ends.read, PIPE_BUF, "two");
    expect_read("another of a byte", ends.read, PIPE_BUF, "3");
    expect_read("the beginning of one", ends.read, 4, "only");
    fill(ends.write, "a"), fill(ends.write, "b");
    expect_read("a packet since", ends.read, PIPE_BUF, "a");
    expect_read("the next one", ends.read, PIPE_BUF, "b");
    expect_empty("a pipe of packets", ends.read);
  };
}

Check one_packet() {
  const Ends ends = open_pipe(O_DIRECT | O_NONBLOCK), single = open_pipe(O_DIRECT | O_NONBLOCK);
  fill(ends.write, "the only packet"), fill(single.write, "x");
  return [=] {
    fill(ends.write, "another"), fill(single.write, "y");
    expect_read("the only packet", ends.read, 100, "the only packet");
    expect_read("the only byte", single.read, 100, "x");
  };
}

// Packets, though its ends are for streams by now.
Check former_packets() {
  const Ends ends = open_pipe(O_DIRECT | O_NONBLOCK);
  fill(ends.write, "former"), fill(ends.write, "packets");
  for (const int end : {ends.read, ends.write}) setup("F_SETFL", fcntl(end, F_SETFL, O_NONBLOCK));
  return [=] {
    expect_equal("no O_DIRECT", fcntl(ends.write, F_GETFL) & O_DIRECT, 0);
    expect_read("a former packet", ends.read, 100, "former");
    expect_read("the other one", ends.read, 100, "packets");
    fill(ends.write, "now "), fill(ends.write, "a stream");
    expect_read("a stream", ends.read, 100, "now a stream");
  };
}

// A stream, though its ends are for packets by now; of one, there is another description.
Check future_packets() {
  const Ends ends = open_pipe(O_NONBLOCK);
  const std::string path = "/proc/self/fd/" + std::to_string(ends.write);
  const int again = setup("open", open(path.c_str(), O_WRONLY | O_NONBLOCK));
  fill(ends.write, "a stream"), fill(again, " of two");
  for (const int end : {ends.write, again})
    setup("F_SETFL", fcntl(end, F_SETFL, O_NONBLOCK | O_DIRECT));
  return [=] {
    expect_equal("another's O_DIRECT", fcntl(again, F_GETFL) & O_DIRECT, O_DIRECT);
    fill(again, "a packet");
    expect_read("the beginning of a stream", ends.read, 3, "a s");
    expect_read("its rest, and a packet", ends.read, 100, "tream of twoa packet");
  };
}

// No room for another buffer.
Check smallest() {
  const Ends stream = open_pipe(O_NONBLOCK), packet = open_pipe(O_NONBLOCK | O_DIRECT);
  for (const Ends& ends : {stream, packet}) {
    setup("F_SETPIPE_SZ", fcntl(ends.write, F_SETPIPE_SZ, 4096));
    fill(ends.write, "x");
  }
  return [=] {
    expect_read("a byte in the smallest pipe", stream.read, 100, "x");
    expect_read("a packet in the smallest pipe", packet.read, 100, "x");
  };
}

Check last_words() {
  const Ends ends = open_pipe(0);
  fill(ends.write, "the last words");
  close(ends.write);
  return [=] {
    expect_read("what a writer left", ends.read, 100, "the last words");
    expect_read("its end", ends.read, 100, "");
  };
}

Check no_reader() {
  const Ends ends = open_pipe(0);
  fill(ends.write, "nobody reads it");
  close(ends.read);
  return [=] {
    signal(SIGPIPE, SIG_IGN);
    expect_equal("a pipe without a reader", write(ends.write, "x", 1) < 0 && errno == EPIPE, true);
  };
}

Check fifo(const std::string& path) {
  setup("mkfifo", mkfifo(path.c_str(), 0640));
  const int both = setup("open", open(path.c_str(), O_RDWR | O_NONBLOCK));
  const int reader = setup("open", open(path.c_str(), O_RDONLY | O_NONBLOCK));
  setup("F_SETFL", fcntl(both, F_SETFL, O_NONBLOCK | O_DIRECT));
  fill(both, "in a "), fill(both, "FIFO");
  return [=] {
    expect_equal("what waits in a FIFO", queued(reader), 9);
    expect_equal("O_DIRECT of a FIFO", fcntl(both, F_GETFL) & O_DIRECT, O_DIRECT);
    expect_read("a packet in a FIFO", reader, 100, "in a ");
    expect_read("another one", reader, 100, "FIFO");
    expect_empty("a FIFO", both);
    unlink(path.c_str());
  };
}

// The child has the reading end, and the only one.
pid_t read_by_child(target::Family& family, Check& check) {
  const Ends ends = open_pipe(O_DIRECT);
  fill(ends.write, "to a child"), fill(ends.write, "in two packets");
  const pid_t child = family.fork_child();
  if (child == 0) {
    close(ends.write);
    family.announce_ready();
    family.wait_for_end_of_family();
    expect_read("a parent's packet", ends.read, 100, "to a child");
    expect_read("the next one", ends.read, 100, "in two packets");
    expect_read("a later one", ends.read, 100, "later");
    _exit(target::verdict());
  }
  close(ends.read);
  check = [=] { fill(ends.write, "later"); };
  return child;
}

}  // namespace

int main() {
  const target::ScratchDirectory scratch;
  target::prepare_end();
  target::Family family;
  Check to_child;
  const pid_t child = read_by_child(family, to_child);
  std::vector<Check> checks{to_child,
                            full(),
                            begun(),
                            packets(),
                            one_packet(),
                            former_packets(),
                            future_packets(),
                            smallest(),
                            last_words(),
                            no_reader(),
                            fifo(scratch.path("fifo"))};
  family.wait_for_announcements(1);
  target::ready();
  target::wait_for_end();
  for (const Check& check : checks) check();
  family.end();
  target::expect_success_of(child);
  _exit(target::verdict());
}
