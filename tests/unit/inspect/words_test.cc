#include "core/inspect/words.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <catch2/catch.hpp>

#include "core/image/snapshot_builder.h"

using namespace snapgdb;

TEST_CASE("every kind of descriptor has a name, and the details that matter") {
  pb::Descriptor d;
  CHECK(descriptor_kind(d) == "unknown");

  d.mutable_eventfd()->set_count(UINT64_MAX - 1);
  CHECK(descriptor_kind(d) == "eventfd");
  CHECK(descriptor_details(d) == "count 18446744073709551614");

  d.mutable_timerfd()->set_clock(1);
  d.mutable_timerfd()->set_interval_ns(2'000'000);
  CHECK(descriptor_details(d) == "CLOCK_MONOTONIC, not set, every 2.00 ms");

  d.mutable_signalfd()->set_mask(1u << 1 | 1u << 14);
  CHECK(descriptor_details(d) == "SIGINT SIGTERM");

  d.mutable_epoll()->add_targets()->set_fd(5);
  d.mutable_epoll()->add_targets()->set_fd(9);
  CHECK(descriptor_details(d) == "watches fd 5, 9");

  d.mutable_inotify()->add_watches();
  CHECK(descriptor_details(d) == "1 watch");

  d.mutable_memfd()->set_name("buf");
  d.mutable_memfd()->set_seals(F_SEAL_GROW | F_SEAL_WRITE);
  CHECK(descriptor_details(d) == "buf, sealed against grow write");

  d.mutable_device_node()->set_terminal(true);
  CHECK(descriptor_kind(d) == "terminal");

  d.mutable_pidfd()->set_pid(12);
  CHECK(descriptor_details(d) == "process 12");

  d.mutable_other()->set_what("anon_inode:[io_uring]");
  d.mutable_other()->set_fdinfo("SqMask:\t0x3\nSqHead:\t1\n");
  CHECK(descriptor_kind(d) == "anon_inode:[io_uring]");
  CHECK(descriptor_details(d) == "SqMask: 0x3; SqHead: 1");

  d.mutable_other()->set_name("perf event");
  d.mutable_other()->set_fdinfo("pos:\t0\nflags:\t02\nino:\t1038\n");
  CHECK(descriptor_kind(d) == "perf event");
  CHECK(descriptor_details(d).empty());

  pb::MessageQueueFd& queue = *d.mutable_message_queue();
  queue.set_name("/jobs"), queue.set_queued(2);
  queue.set_maximum_messages(10), queue.set_message_size(8192), queue.set_notify_pid(7);
  CHECK(descriptor_kind(d) == "message queue");
  CHECK(descriptor_details(d) == "/jobs, 2 messages, of 10 of 8.00 KiB, process 7 is told");

  pb::IoUring& ring = *d.mutable_io_uring();
  ring.set_submission_entries(8), ring.set_completion_entries(16), ring.set_in_flight(1);
  CHECK(descriptor_details(d) == "8 and 16 entries, 1 in flight");

  d.mutable_fanotify()->add_marks();
  d.mutable_fanotify()->set_flags(0x6);
  CHECK(descriptor_details(d) == "1 mark, content");

  d.mutable_pipe()->set_queued(3);
  d.set_flags(O_WRONLY);
  CHECK(descriptor_kind(d) == "pipe, write end");
  CHECK(descriptor_details(d) == "3 B queued");

  d.mutable_socket()->set_domain(AF_UNIX);
  d.mutable_socket()->set_type(SOCK_DGRAM);
  CHECK(descriptor_kind(d) == "unix datagram socket");
}

TEST_CASE("a thread in the kernel is in a system call, about something where it says so") {
  SnapshotBuilder builder;
  auto& process = builder.process(10).thread(10);
  const auto in = [&](uint64_t number, uint64_t first = 0) {
    return system_call_of(process.in_call(number, first).last_thread());
  };
  CHECK(system_call_of(process.last_thread()).words.empty());  // in the program
  CHECK(in(SYS_read, 3).words == "read(3)");
  CHECK(in(SYS_read, 3).descriptor == 3);
  CHECK(in(SYS_wait4, static_cast<uint64_t>(-1)).words == "wait4(-1)");
  CHECK_FALSE(in(SYS_wait4, 3).descriptor.has_value());
  CHECK(in(SYS_futex, 0x7f12a4000010).words == "futex(0x7f12a4000010)");
  CHECK(in(SYS_poll, 0x1000).words == "poll");
  CHECK(in(99'999).words == "system call 99999");
  CHECK(in(static_cast<uint64_t>(-1)).words.empty());
  process.last_thread().clear_registers();
  CHECK(system_call_of(process.last_thread()).words.empty());
}

TEST_CASE("signals have their names, real-time ones too") {
  CHECK(signal_name(0).empty());
  CHECK(signal_name(11) == "SIGSEGV");
  CHECK(signal_name(34) == "SIGRTMIN");
  CHECK(signal_name(64) == "SIGRTMIN+30");
  CHECK(signal_name(200) == "signal 200");
  CHECK(signal_set(uint64_t{1} << 63 | 1) == "SIGHUP SIGRTMIN+30");
}

TEST_CASE("how a zombie ended is told from its wait status") {
  CHECK(exit_text(3 << 8) == "exit status 3");
  CHECK(exit_text(9) == "killed by SIGKILL");
}

TEST_CASE("flags are words, and what has no name is a number") {
  pb::Descriptor d;
  d.set_flags(O_RDWR | O_APPEND | O_NONBLOCK | 0100000 | 1u << 30);
  d.set_close_on_exec(true);
  CHECK(descriptor_flags(d) == "read-write append nonblock 0x40000000 cloexec");
}
