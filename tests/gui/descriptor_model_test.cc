#include "gui/models/descriptor_model.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <catch2/catch.hpp>

#include <QAbstractItemModelTester>

#include "core/image/snapshot_builder.h"
#include "tests/gui/model_text.h"

using namespace snapgdb;
using namespace snapgdb::gui;
using Tester = QAbstractItemModelTester;

namespace {

pb::Descriptor& descriptor(pb::Process& process, int32_t fd, uint32_t flags, uint64_t inode) {
  pb::Descriptor& added = *process.add_descriptors();
  added.set_number(fd);
  added.set_flags(flags);
  added.set_inode(inode);
  return added;
}

pb::Process& process(SnapshotBuilder& builder, int32_t pid, const char* name) {
  pb::Process& record = builder.process(pid).thread(pid).record();
  record.set_name(name);
  return record;
}

pb::Descriptor& tcp(pb::Process& owner, int32_t fd, const char* local, const char* remote) {
  pb::Descriptor& added = descriptor(owner, fd, O_RDWR, static_cast<uint64_t>(fd));
  added.mutable_socket()->set_domain(AF_INET);
  added.mutable_socket()->set_type(SOCK_STREAM);
  added.mutable_socket()->set_local(local);
  added.mutable_socket()->set_remote(remote);
  return added;
}

// The two columns about others, of every descriptor of a process.
QString others(const SnapshotBuilder& builder, int32_t pid) {
  const auto snapshot = builder.build();
  const DescriptorPeers peers(*snapshot);
  DescriptorModel model;
  const Tester tester(&model, Tester::FailureReportingMode::Fatal);
  model.show(snapshot, snapshot->process(pid), peers);
  return as_text(model,
                 {DescriptorModel::kFd, DescriptorModel::kOtherEnd, DescriptorModel::kSharedWith});
}

}  // namespace

TEST_CASE("a file is shown with its flags and its position") {
  SnapshotBuilder builder;
  pb::Descriptor& file = descriptor(process(builder, 10, "a"), 3, O_RDWR | O_APPEND | 0100000, 5);
  file.set_target("/var/log/x");
  file.set_position(9);
  file.set_size(2000);
  file.set_close_on_exec(true);
  file.mutable_file()->set_unlinked(true);
  const auto snapshot = builder.build();
  const DescriptorPeers peers(*snapshot);
  DescriptorModel model;
  model.show(snapshot, snapshot->process(10), peers);
  using M = DescriptorModel;
  CHECK(as_text(model, {M::kFd, M::kKind, M::kTarget, M::kDetails, M::kFlags, M::kPosition}) ==
        "3 | file, unlinked | /var/log/x | 1.95 KiB | read-write append cloexec | 9\n");
}

TEST_CASE("the ends of a pipe find each other across processes") {
  SnapshotBuilder builder;
  descriptor(process(builder, 10, "yes"), 1, O_WRONLY, 77).mutable_pipe();
  pb::Process& reader = process(builder, 11, "head");
  descriptor(reader, 0, O_RDONLY, 77).mutable_pipe();
  descriptor(reader, 5, O_RDONLY, 78).mutable_pipe();
  CHECK(others(builder, 10) == "1 | head 11 fd 0 | \n");
  CHECK(others(builder, 11) ==
        "0 | yes 10 fd 1 | \n"
        "5 | nobody in the snapshot | \n");
}

TEST_CASE("pipes of equal inode on different devices are different pipes") {
  SnapshotBuilder builder;
  pb::Process& owner = process(builder, 10, "a");
  descriptor(owner, 1, O_WRONLY, 77).mutable_pipe();
  auto& other = descriptor(owner, 2, O_RDONLY, 77);
  other.mutable_pipe()->set_fifo(true);
  other.set_device(9);
  CHECK(others(builder, 10) ==
        "1 | nobody in the snapshot | \n"
        "2 | nobody in the snapshot | \n");
}

TEST_CASE("unix sockets are matched by their peer's inode") {
  SnapshotBuilder builder;
  auto& left = descriptor(process(builder, 10, "a"), 3, O_RDWR, 100);
  left.mutable_socket()->set_domain(AF_UNIX);
  left.mutable_socket()->set_peer_inode(101);
  auto& right = descriptor(process(builder, 11, "b"), 4, O_RDWR, 101);
  right.mutable_socket()->set_domain(AF_UNIX);
  right.mutable_socket()->set_peer_inode(999);
  CHECK(others(builder, 10) == "3 | b 11 fd 4 | \n");
  CHECK(others(builder, 11) == "4 | nobody in the snapshot | \n");
}

TEST_CASE("internet sockets are matched by their addresses, a listening one by none") {
  SnapshotBuilder builder;
  pb::Process& server = process(builder, 10, "server");
  tcp(server, 3, "0.0.0.0:80", "").mutable_socket()->set_state("listening");
  tcp(server, 4, "127.0.0.1:80", "127.0.0.1:5000");
  tcp(process(builder, 11, "client"), 5, "127.0.0.1:5000", "127.0.0.1:80");
  CHECK(others(builder, 10) ==
        "3 |  | \n"
        "4 | client 11 fd 5 | \n");
  CHECK(others(builder, 11) == "5 | server 10 fd 4 | \n");
}

TEST_CASE("descriptors of one open file description name each other, not themselves") {
  SnapshotBuilder builder;
  pb::Process& parent = process(builder, 10, "sh");
  descriptor(parent, 1, O_RDWR, 5).set_description(7);
  descriptor(parent, 2, O_RDWR, 5).set_description(7);
  descriptor(parent, 3, O_RDWR, 5).set_description(8);
  descriptor(process(builder, 11, "ls"), 1, O_RDWR, 5).set_description(7);
  CHECK(others(builder, 10) ==
        "1 |  | own fd 2, ls 11 fd 1\n"
        "2 |  | own fd 1, ls 11 fd 1\n"
        "3 |  | \n");
}

TEST_CASE("a descriptor of which nothing is known is grey") {
  SnapshotBuilder builder;
  pb::Process& owner = process(builder, 10, "a");
  descriptor(owner, 3, O_RDWR, 5);
  descriptor(owner, 4, O_RDWR, 5).mutable_file();
  const auto snapshot = builder.build();
  DescriptorModel model;
  model.show(snapshot, snapshot->process(10), DescriptorPeers(*snapshot));
  CHECK(cell_text(model, 0, 0, kMissingRole) == "What it is was not captured");
  CHECK(cell_text(model, 1, 0, kMissingRole) == "");
}

TEST_CASE("a description of megabytes is cut") {
  SnapshotBuilder builder;
  descriptor(process(builder, 10, "a"), 3, O_RDWR, 5)
      .mutable_other()
      ->set_fdinfo(std::string(2 << 20, 'x'));
  const auto snapshot = builder.build();
  DescriptorModel model;
  model.show(snapshot, snapshot->process(10), DescriptorPeers(*snapshot));
  CHECK(cell_text(model, 0, DescriptorModel::kDetails).size() < 3000);
}

TEST_CASE("of many holders the first few are named and the rest counted") {
  SnapshotBuilder builder;
  for (int32_t pid = 1; pid <= 10; ++pid)
    descriptor(process(builder, pid, "w"), 1, O_RDWR, 5).set_description(7);
  CHECK(others(builder, 1) ==
        "1 |  | w 2 fd 1, w 3 fd 1, w 4 fd 1, w 5 fd 1, w 6 fd 1, w 7 fd 1 and 3 more\n");
}

TEST_CASE("what is on its way in a message is shown, and found as the other end") {
  SnapshotBuilder builder;
  descriptor(process(builder, 10, "sh"), 1, O_WRONLY, 77).mutable_pipe();
  pb::Process& receiver = process(builder, 11, "srv");
  descriptor(receiver, 3, O_RDONLY, 78).mutable_pipe();
  for (const uint64_t inode : {77, 79}) {
    pb::Descriptor& sent = *receiver.add_in_flight();
    sent.set_number(kInFlight);
    sent.set_flags(O_RDONLY);
    sent.set_inode(inode);
    sent.set_description(7);
    sent.mutable_pipe();
  }
  CHECK(others(builder, 10) == "1 | in flight to srv 11 | \n");
  CHECK(others(builder, 11) ==
        "3 | nobody in the snapshot | \n"
        "in flight | sh 10 fd 1 | in flight to itself\n"
        "in flight | nobody in the snapshot | in flight to itself\n");
}
