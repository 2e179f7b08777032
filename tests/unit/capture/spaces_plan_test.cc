// What becomes of a container's namespaces: the plan alone.

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>

#include "core/image/snapshot_builder.h"
#include "core/resource/mounts.h"
#include "core/resource/namespaces.h"
#include "core/restore_plan.h"

using namespace snapgdb;

namespace {

// A tree of one process that is in namespaces of its own, by kind.
class ContainerBuilder {
 public:
  ContainerBuilder() : process_(builder.process(10, 1).thread(10)) {
    process_.record().set_session(10), process_.record().set_group(10);
    process_.last_thread().set_xstate(std::string(576, '\0'));
  }

  pb::NamespaceState& own(const char* kind) {
    name(*builder.record().add_namespaces(), kind, next_++);
    pb::NamespaceState& space = *builder.record().add_spaces();
    space.set_kind(kind);
    space.set_inode(next_);
    name(*process_.record().add_namespaces(), kind, next_++);
    return space;
  }

  SnapshotBuilder builder;

 private:
  static void name(pb::Namespace& one, const char* kind, uint64_t inode) {
    one.set_kind(kind), one.set_inode(inode);
  }

  SnapshotBuilder::ProcessBuilder& process_;
  uint64_t next_ = 1;
};

void add_range(google::protobuf::RepeatedPtrField<pb::IdRange>& ranges, uint32_t inside,
               uint32_t outside, uint32_t count) {
  pb::IdRange& range = *ranges.Add();
  range.set_inside(inside), range.set_outside(outside), range.set_count(count);
}

// Mounted at `point`; "": seen nowhere outside.
pb::FileSystem& add_mount(pb::NamespaceState& space, const char* point, const char* type,
                          const char* outside) {
  pb::Mount& mount = *space.add_mounts();
  mount.set_id(100 + space.mounts_size());
  mount.set_parent(space.mounts_size() == 1 ? 1 : 101);
  mount.set_point(point), mount.set_root("/"), mount.set_outside(outside);
  mount.set_file_system(static_cast<uint32_t>(space.file_systems_size()));
  pb::FileSystem& system = *space.add_file_systems();
  system.set_type(type);
  return system;
}

bool says(const std::vector<std::string>& notes, std::string_view what) {
  return std::ranges::any_of(notes, [&](const auto& note) { return note.find(what) != note.npos; });
}

TEST_CASE("users of a container have the numbers that its map gave them") {
  ContainerBuilder container;
  pb::NamespaceState& space = container.own("user");
  add_range(*space.mutable_users(), 0, 1000, 1);
  add_range(*space.mutable_users(), 1, 100000, 65536);
  add_range(*space.mutable_groups(), 0, 1000, 1);
  const UserNumbers numbers(space);
  CHECK(numbers.user(1000) == 0);
  CHECK(numbers.user(100000) == 1);
  CHECK(numbers.user(165535) == 65536);
  CHECK(numbers.user(165536) == UserNumbers::kNone);
  CHECK(numbers.user(0) == UserNumbers::kNone);
  CHECK(numbers.group(1000) == 0);
  CHECK(numbers.group(1001) == UserNumbers::kNone);
  CHECK(UserNumbers().user(7) == 7);
  const auto snapshot = container.builder.build();
  CHECK(plan_restore(*snapshot, {}).own_user);
}

TEST_CASE("a user namespace without a map keeps the numbers outside, and that is said") {
  ContainerBuilder container;
  container.own("user");
  const auto snapshot = container.builder.build();
  const RestorePlan plan = plan_restore(*snapshot, {});
  CHECK(plan.own_user);
  CHECK(plan.user_space == nullptr);
  CHECK(says(plan.notes, "the numbers that they had outside"));
}

TEST_CASE("clocks of a container go on by what they were ahead") {
  ContainerBuilder container;
  container.builder.record().set_monotonic_ns(100);
  container.builder.record().set_boottime_ns(200);
  container.builder.record().set_monotonic_offset_ns(5);
  pb::NamespaceState& space = container.own("time");
  space.set_monotonic_offset_ns(1005);
  space.set_boottime_offset_ns(-50);
  const auto snapshot = container.builder.build();
  CHECK(tree_clock(*snapshot, CLOCK_MONOTONIC) == 1100);
  CHECK(tree_clock(*snapshot, CLOCK_BOOTTIME) == 150);
}

TEST_CASE("what is mounted nowhere any more is in the way, unless mounts are left out") {
  ContainerBuilder container;
  pb::NamespaceState& space = container.own("mnt");
  add_mount(space, "/", "ext4", "/");
  add_mount(space, "/gone", "ext4", "/no/such/place");
  add_mount(space, "/disk", "xfs", "");
  add_mount(space, "/proc", "proc", "");
  const auto snapshot = container.builder.build();
  const RestorePlan plan = plan_restore(*snapshot, {});
  std::vector<std::string> said;
  for (const Obstacle& obstacle : plan.obstacles) said.push_back(obstacle.resource);
  CHECK(std::ranges::count(said, "what is mounted at /gone") == 1);
  CHECK(std::ranges::count(said, "what is mounted at /disk") == 1);
  CHECK(std::ranges::count(said, "what is mounted at /proc") == 0);
  const RestorePlan without = plan_restore(*snapshot, {.without = {"mounts"}});
  CHECK(without.mounts == nullptr);
  CHECK(says(without.notes, "it sees those that are here"));
}

TEST_CASE("a path of a container is looked up through its mounts") {
  ContainerBuilder container;
  pb::NamespaceState& space = container.own("mnt");
  pb::FileSystem& memory = add_mount(space, "/", "tmpfs", "");
  add_mount(space, "/usr", "ext4", "/usr");
  add_mount(space, "/elsewhere", "ext4", "/usr/bin");
  pb::FileEntry& entry = *memory.add_entries();
  entry.set_path("/file"), entry.set_mode(S_IFREG | 0640), entry.set_size(7);
  entry.set_mtime_ns(3'000'000'004);
  CHECK(path_outside(&space, "/usr/lib/x") == "/usr/lib/x");
  CHECK(path_outside(&space, "/elsewhere/env") == "/usr/bin/env");
  CHECK(path_outside(&space, "/file") == std::nullopt);
  CHECK(path_outside(nullptr, "/file") == "/file");
  struct stat status {};
  REQUIRE(stat_for_tree(&space, "/file", status) == 0);
  CHECK(status.st_mode == (S_IFREG | 0640));
  CHECK(status.st_size == 7);
  CHECK(status.st_mtim.tv_sec == 3);
  CHECK(status.st_mtim.tv_nsec == 4);
  CHECK(stat_for_tree(&space, "/etc/passwd", status) != 0);
  CHECK(stat_for_tree(&space, "/elsewhere", status) == 0);
}

TEST_CASE(
    "the plan names the namespaces that a container gets, and who is not root needs one more") {
  ContainerBuilder container;
  pb::NamespaceState& names = container.own("uts");
  names.set_host_name("inside"), names.set_domain_name("example");
  pb::Network& network = *container.own("net").mutable_network();
  network.add_addresses("an address");
  const auto snapshot = container.builder.build();
  const RestorePlan plan = plan_restore(*snapshot, {});
  const std::string words = describe(plan, *snapshot);
  CHECK(words.find("uts namespace: host inside, domain example") != words.npos);
  CHECK(words.find("net namespace: 1 addresses, 0 routes, 0 rules") != words.npos);
  CHECK(plan.own_user == (geteuid() != 0));
}

}  // namespace
