// Idle rings of io_uring: one that has been gone round in often, with completions that nobody took,
// one that was never used, one without indices (IORING_SETUP_NO_SQARRAY), one that a child has in
// common. Says "without" where the kernel gives none.
//
// --in-flight, --files, --eventfd, --single: one that cannot come back, for that reason.

#include <linux/io_uring.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "target.h"

namespace {

using target::expect_call;
using target::expect_equal;
using target::setup;

constexpr uint32_t kNoIndices = 1 << 16, kSingleIssuer = 1 << 12;

int make_ring(unsigned entries, io_uring_params& parameters) {
  return static_cast<int>(syscall(SYS_io_uring_setup, entries, &parameters));
}

class Ring {
 public:
  explicit Ring(unsigned entries, uint32_t flags = 0, unsigned completions = 0) {
    parameters_.flags = flags | (completions ? IORING_SETUP_CQSIZE : 0);
    parameters_.cq_entries = completions;
    fd_ = setup("io_uring_setup", make_ring(entries, parameters_));
    size_t size = parameters_.cq_off.cqes + parameters_.cq_entries * sizeof(io_uring_cqe);
    if (!(flags & kNoIndices))
      size = std::max(size, parameters_.sq_off.array + parameters_.sq_entries * sizeof(unsigned));
    ring_ = map(IORING_OFF_SQ_RING, size);
    entries_ = reinterpret_cast<io_uring_sqe*>(
        map(IORING_OFF_SQES, parameters_.sq_entries * sizeof(io_uring_sqe)));
  }
  int fd() const { return fd_; }

  void prepare(const io_uring_sqe& request) {
    unsigned& tail = at(parameters_.sq_off.tail);
    const unsigned index = tail & at(parameters_.sq_off.ring_mask);
    entries_[index] = request;
    if (!(parameters_.flags & kNoIndices)) (&at(parameters_.sq_off.array))[index] = index;
    __atomic_store_n(&tail, tail + 1, __ATOMIC_RELEASE);
  }
  long submit(unsigned n, unsigned wait_for = 0) const {
    return syscall(SYS_io_uring_enter, fd_, n, wait_for, wait_for ? IORING_ENTER_GETEVENTS : 0,
                   nullptr, 0);
  }
  bool is_empty() const { return at(parameters_.cq_off.head) == at(parameters_.cq_off.tail); }
  io_uring_cqe take() {
    unsigned& head = at(parameters_.cq_off.head);
    const auto* completions =
        reinterpret_cast<const io_uring_cqe*>(ring_ + parameters_.cq_off.cqes);
    const io_uring_cqe completion = completions[head & at(parameters_.cq_off.ring_mask)];
    __atomic_store_n(&head, head + 1, __ATOMIC_RELEASE);
    return completion;
  }
  // Rounds of nothing at all, of which `left` are not taken.
  void use(unsigned rounds, uint64_t first, unsigned left) {
    for (unsigned i = 0; i < rounds; ++i) {
      io_uring_sqe request{};
      request.opcode = IORING_OP_NOP, request.user_data = first + i;
      prepare(request);
      if (submit(1) != 1) target::cannot("io_uring_enter");
      if (i + left < rounds) expect_next(first + i, 0);
    }
  }
  void expect_next(uint64_t data, int result) {
    if (is_empty()) return target::differs("a completion of an io_uring is missing");
    const io_uring_cqe completion = take();
    expect_equal("data of a completion", completion.user_data, data);
    expect_equal("result of a completion", static_cast<uint64_t>(completion.res),
                 static_cast<uint64_t>(result));
  }
  // Something that is seen elsewhere, too.
  void expect_works(uint64_t data) {
    int ends[2];
    setup("pipe", pipe(ends));
    io_uring_sqe request{};
    request.opcode = IORING_OP_WRITE, request.fd = ends[1], request.user_data = data;
    request.addr = reinterpret_cast<uint64_t>("written"), request.len = 7, request.off = ~0ull;
    prepare(request);
    expect_equal("io_uring_enter", expect_call("io_uring_enter", submit(1, 1)), 1);
    expect_next(data, 7);
    char text[8] = {};
    expect_equal("what was written", read(ends[0], text, 7) == 7 && !strcmp(text, "written"), true);
    close(ends[0]), close(ends[1]);
  }

 private:
  unsigned& at(unsigned offset) const { return *reinterpret_cast<unsigned*>(ring_ + offset); }
  char* map(off_t offset, size_t size) const {
    void* memory =
        mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_, offset);
    if (memory == MAP_FAILED) target::cannot("mmap");
    return static_cast<char*>(memory);
  }

  io_uring_params parameters_{};
  int fd_;
  char* ring_;
  io_uring_sqe* entries_;
};

void make_impossible(int argc, char** argv) {
  static Ring* ring;
  if (target::has_flag(argc, argv, "--single")) ring = new Ring(4, kSingleIssuer);
  if (argc > 1 && !ring) ring = new Ring(4);
  if (target::has_flag(argc, argv, "--in-flight")) {
    int ends[2];
    setup("pipe", pipe(ends));
    io_uring_sqe request{};
    request.opcode = IORING_OP_POLL_ADD, request.fd = ends[0], request.poll32_events = 1;
    ring->prepare(request);
    setup("io_uring_enter", ring->submit(1));
  }
  const int event = setup("eventfd", eventfd(0, 0));
  if (target::has_flag(argc, argv, "--files"))
    setup("io_uring_register",
          syscall(SYS_io_uring_register, ring->fd(), IORING_REGISTER_FILES, &event, 1));
  if (target::has_flag(argc, argv, "--eventfd"))
    setup("io_uring_register",
          syscall(SYS_io_uring_register, ring->fd(), IORING_REGISTER_EVENTFD, &event, 1));
}

}  // namespace

int main(int argc, char** argv) {
  target::prepare_end();
  io_uring_params parameters{};
  const int trial = make_ring(1, parameters);
  if (trial < 0) {
    target::say("without");
    target::ready();
    target::wait_for_end();
    return 0;
  }
  close(trial);
  target::Family family;
  Ring used(4, 0, 32), fresh(64), common(1);
  used.use(301, 1'000, 2);
  common.use(7, 50, 0);
  parameters = {}, parameters.flags = kNoIndices;
  const int without = make_ring(1, parameters);
  if (without >= 0) close(without);
  Ring plain(8, without >= 0 ? kNoIndices : 0);
  plain.use(19, 70, 1);
  const pid_t child = family.fork_child();
  if (child == 0) {
    family.announce_ready();
    family.wait_for_end_of_family();
    common.expect_works(88);
    _exit(target::verdict());
  }
  family.wait_for_announcements(1);
  make_impossible(argc, argv);
  target::OwnState state;
  state.remember();
  target::ready();
  target::wait_for_end();

  if (!target::was_restored()) state.compare();
  used.expect_next(1'299, 0), used.expect_next(1'300, 0);
  plain.expect_next(88, 0);
  for (Ring* ring : {&used, &fresh, &plain, &common})
    for (uint64_t i = 0; i < 70; ++i) ring->expect_works(i);
  expect_equal("no more completions", used.is_empty() && fresh.is_empty(), true);
  family.end();
  target::expect_success_of(child);
  expect_equal("what the child has taken", common.is_empty(), true);
  return target::verdict();
}
