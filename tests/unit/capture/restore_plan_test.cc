#include "core/restore_plan.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <catch2/catch.hpp>

#include "core/image/snapshot_builder.h"
#include "core/resource/spaces.h"

using namespace snapgdb;

namespace {

// A process of a tree whose root is 10, in session and group `session`.
SnapshotBuilder::ProcessBuilder& add(SnapshotBuilder& builder, int32_t pid, int32_t parent,
                                     int32_t session, int32_t group) {
  auto& process = builder.process(pid, parent).thread(pid);
  process.record().set_session(session);
  process.record().set_group(group);
  process.last_thread().set_xstate(std::string(576, '\0'));
  return process;
}

std::vector<std::string> births_of(const RestorePlan& plan) {
  std::vector<std::string> words;
  for (const Birth& birth : plan.births) {
    constexpr const char* kWords[] = {"clone", "setsid",    "setpgid", "exit",
                                      "lend",  "take back", "adopt"};
    words.push_back(
        fmt::format("{} {} {}", kWords[static_cast<int>(birth.step)], birth.pid, birth.other));
  }
  return words;
}

bool is_in_the_way(const RestorePlan& plan, int32_t pid, std::string_view what) {
  return std::ranges::any_of(plan.obstacles, [&](const Obstacle& obstacle) {
    return obstacle.pid == pid &&
           (obstacle.resource + obstacle.why).find(what) != std::string::npos;
  });
}

}  // namespace

TEST_CASE("children of an older session are born before their parent begins its own") {
  SnapshotBuilder builder;
  add(builder, 10, 1, 10, 10);
  add(builder, 11, 10, 10, 11);  // of the session: after setsid
  add(builder, 12, 10, 5, 5);    // of the one that snapgdb is in: before
  add(builder, 13, 10, 13, 13);  // of its own
  const RestorePlan plan = plan_restore(*builder.build(), {});
  CHECK(births_of(plan) == std::vector<std::string>{"clone 10 0", "clone 12 10", "setsid 10 0",
                                                    "clone 11 10", "clone 13 10", "setsid 13 0",
                                                    "setpgid 11 11"});
}

TEST_CASE("whoever has a child of an older session is born before that ends for its parent") {
  SnapshotBuilder builder;
  add(builder, 10, 1, 10, 10);
  add(builder, 11, 10, 11, 11);
  add(builder, 12, 11, 12, 12);
  add(builder, 13, 12, 10, 10);  // all of those above it have left this one since
  add(builder, 14, 11, 14, 14);
  const RestorePlan plan = plan_restore(*builder.build(), {});
  CHECK(births_of(plan) == std::vector<std::string>{"clone 10 0", "setsid 10 0", "clone 11 10",
                                                    "clone 12 11", "clone 13 12", "setsid 12 0",
                                                    "setsid 11 0", "clone 14 11", "setsid 14 0",
                                                    "setpgid 13 10"});
  CHECK(plan.notes.empty());
}

namespace {

void put_into(SnapshotBuilder& builder, SnapshotBuilder::ProcessBuilder& process, const char* kind,
              uint64_t inode) {
  pb::Namespace& own = *process.record().add_namespaces();
  own.set_kind(kind), own.set_inode(inode);
  auto& spaces = *builder.record().mutable_spaces();
  if (std::ranges::count(spaces, inode, &pb::NamespaceState::inode)) return;
  pb::NamespaceState& state = *spaces.Add();
  state.set_kind(kind), state.set_inode(inode), state.set_parent(inode - 1);
}

// In pid namespaces with the inodes 1, 2, …, by its numbers there.
void number(SnapshotBuilder& builder, SnapshotBuilder::ProcessBuilder& process,
            const std::vector<int32_t>& numbers) {
  process.record().mutable_ns_pids()->Assign(numbers.begin(), numbers.end());
  put_into(builder, process, "pid", numbers.size());
}

}  // namespace

TEST_CASE("a group leader leads before children are born where it has no number") {
  SnapshotBuilder builder;
  number(builder, add(builder, 10, 1, 5, 10), {10});
  number(builder, add(builder, 11, 10, 5, 10), {11, 1});
  number(builder, add(builder, 12, 11, 5, 10), {12, 2});
  const auto snapshot = builder.build();
  const RestorePlan plan = plan_restore(*snapshot, {});
  CHECK(births_of(plan) == std::vector<std::string>{"clone 10 0", "setpgid 10 10", "clone 11 10",
                                                    "clone 12 11", "setpgid 11 10",
                                                    "setpgid 12 10"});
  CHECK(plan.obstacles.empty());
}

TEST_CASE("in a container, a group whose leader is gone keeps the number that it had inside") {
  SnapshotBuilder builder;
  auto& root = add(builder, 10, 1, 10, 10);
  auto& member = add(builder, 12, 10, 10, 11);
  auto& other = add(builder, 13, 10, 10, 9);
  number(builder, root, {10, 1}), number(builder, member, {12, 3}), number(builder, other, {13, 4});
  for (const int32_t group : {11, 2}) member.record().add_ns_groups(group);
  for (const int32_t group : {9, 0}) other.record().add_ns_groups(group);
  const auto snapshot = builder.build();
  const RestorePlan plan = plan_restore(*snapshot, {});
  const auto births = births_of(plan);
  CHECK(std::ranges::count(births, "lend 2 3") == 1);
  CHECK(std::ranges::count(births, "setpgid 3 2") == 1);
  CHECK(std::ranges::none_of(births,
                             [](const auto& birth) { return birth.starts_with("setpgid 4"); }));
  CHECK(std::ranges::any_of(plan.notes, [](const std::string& note) {
    return note.starts_with("process 13 stays in the group of its parent");
  }));
}

TEST_CASE("a process has a number for everybody in its pid namespace and those above") {
  SnapshotBuilder builder;
  auto& root = add(builder, 10, 1, 10, 10);
  auto& first = add(builder, 11, 10, 10, 10);
  auto& deepest = add(builder, 12, 11, 10, 10);
  number(builder, root, {10, 3}), number(builder, first, {11, 4, 1});
  number(builder, deepest, {12, 5, 2, 1});
  const auto snapshot = builder.build();
  const pb::Process &above = snapshot->root(), &inside = *snapshot->process(11),
                    &below = *snapshot->process(12);
  CHECK(all_numbers(*snapshot, below) == std::vector<int32_t>{1, 2, 5});
  CHECK(tree_number(*snapshot, below) == 5);
  CHECK(own_number(below) == 1);
  CHECK(number_for(*snapshot, below, inside) == 2);
  CHECK(number_for(*snapshot, below, above) == 5);
  CHECK(number_for(*snapshot, inside, below) == 0);
  CHECK(number_for(*snapshot, above, inside) == 0);
  CHECK(begins_pids(*snapshot, inside));
  CHECK_FALSE(begins_pids(*snapshot, above));
}

TEST_CASE("whoever was put into a pid namespace from outside is in the way") {
  SnapshotBuilder builder;
  number(builder, add(builder, 10, 1, 10, 10), {10});
  number(builder, add(builder, 11, 10, 10, 10), {11, 1});
  number(builder, add(builder, 12, 10, 10, 10), {12, 7});
  const RestorePlan plan = plan_restore(*builder.build(), {});
  CHECK(is_in_the_way(plan, 12, "somebody who is not in it has put it there"));
  CHECK_FALSE(is_in_the_way(plan, 11, "pid namespace"));
}

TEST_CASE("what ipc namespaces below the tree's hold is made there, whatever the numbers") {
  SnapshotBuilder tree;
  for (const auto& [pid, space] : {std::pair{10, 1}, {11, 2}, {12, 3}}) {
    put_into(tree, add(tree, pid, pid == 10 ? 1 : 10, 10, 10), "ipc", static_cast<uint64_t>(space));
    pb::SystemV& objects = *tree.record().add_system_v();
    objects.set_ipc_namespace(static_cast<uint64_t>(space));
    objects.add_semaphores()->mutable_permissions()->set_id(7);
  }
  const RestorePlan plan = plan_restore(*tree.build(), {.isolated = true});
  CHECK(plan.obstacles.empty());
  CHECK(plan.spaces.size() == 2);
  REQUIRE(plan.system_v.spaces.size() == 3);
  for (const auto& [space, planned] : plan.system_v.spaces)
    CHECK(planned.made == std::set<std::pair<IpcKind, int>>{{IpcKind::kSemaphores, 7}});
}

TEST_CASE("message queues that had names keep them; others are opened by some other one") {
  SnapshotBuilder builder;
  auto& process = add(builder, 10, 1, 10, 10);
  const auto add_queue = [&](uint64_t inode, bool removed) {
    pb::Descriptor& descriptor = *process.record().add_descriptors();
    descriptor.set_number(static_cast<int32_t>(inode));
    descriptor.set_description(static_cast<uint32_t>(inode));
    descriptor.set_inode(inode);
    descriptor.set_removed(removed);
    pb::MessageQueueFd& queue = *descriptor.mutable_message_queue();
    queue.set_name("/snapgdb-test-of-plans");
    queue.set_maximum_messages(1), queue.set_message_size(1);
  };
  add_queue(5, true), add_queue(6, false), add_queue(7, true);
  const RestorePlan plan = plan_restore(*builder.build(), {.isolated = true});
  const auto name_of = [&](uint64_t inode) { return plan.message_queues.at({0, inode}).name; };
  CHECK(name_of(6) == "/snapgdb-test-of-plans");
  CHECK(name_of(5) != name_of(6));
  CHECK(name_of(7) != name_of(6));
  CHECK(name_of(7) != name_of(5));
  for (const auto& [key, queue] : plan.message_queues) CHECK(queue.made);
}

TEST_CASE("a ring of io_uring with requests in flight is in the way, with their number") {
  SnapshotBuilder builder;
  auto& process = add(builder, 10, 1, 10, 10);
  pb::Descriptor& descriptor = *process.record().add_descriptors();
  descriptor.set_number(5);
  descriptor.set_description(5);
  descriptor.mutable_io_uring()->set_submitted(7);
  descriptor.mutable_io_uring()->set_completed(5);
  descriptor.mutable_io_uring()->set_in_flight(2);
  const RestorePlan plan = plan_restore(*builder.build(), {});
  CHECK(is_in_the_way(plan, 10, "7 requests and 5 completions: some may be in flight"));
}

TEST_CASE("System V objects of another ipc namespace are made in a new one") {
  SnapshotBuilder builder;
  auto& process = add(builder, 10, 1, 10, 10);
  process.memory(0x10000, "a part", PROT_READ, "/SYSV00001234");
  pb::Vma& vma = *process.record().mutable_mappings(0);
  vma.set_shared(true), vma.set_deleted(true), vma.set_inode(5), vma.set_device_minor(1);
  for (auto [of, inode] : {std::pair{builder.record().add_namespaces(), 1},
                           std::pair{process.record().add_namespaces(), 2}})
    of->set_kind("ipc"), of->set_inode(static_cast<uint64_t>(inode));
  pb::SystemV& objects = *builder.record().add_system_v();
  objects.set_ipc_namespace(2);
  objects.add_semaphores()->mutable_permissions()->set_id(7);
  pb::SharedMemorySegment& segment = *objects.add_shared_memory();
  segment.mutable_permissions()->set_id(5), segment.mutable_permissions()->set_key(0x1234);
  segment.set_size(0x3000), segment.set_inode(5), segment.set_device(1);
  const auto snapshot = builder.build();
  const RestorePlan plan = plan_restore(*snapshot, {});
  CHECK(plan.system_v.own_namespace);
  CHECK(plan.system_v.spaces.at(2).made ==
        std::set<std::pair<IpcKind, int>>{{IpcKind::kSharedMemory, 5}, {IpcKind::kSemaphores, 7}});
  CHECK(plan.file_of(snapshot->root().mappings(0)) == -1);
  CHECK(plan.system_v.room >= plan.seed_base + Seed::kSize + Seed::kParkingSize);

  const RestorePlan without = plan_restore(*snapshot, {.without = {"system-v"}});
  CHECK(without.system_v.spaces.empty());
  CHECK(without.file_of(snapshot->root().mappings(0)) >= 0);
}

TEST_CASE("an orphan is born in its session, by one who goes again, and adopted") {
  SnapshotBuilder builder;
  add(builder, 10, 1, 10, 10);
  add(builder, 11, 10, 11, 11);
  add(builder, 12, 10, 11, 11);  // its parent was in the session of 11
  add(builder, 13, 12, 11, 13);
  const RestorePlan plan = plan_restore(*builder.build(), {});
  const auto births = births_of(plan);
  const std::string nobody = std::to_string(INT32_MIN);
  CHECK(births == std::vector<std::string>{"clone 10 0", "setsid 10 0", "clone 11 10",
                                           "setsid 11 0", "adopt 10 1", "lend " + nobody + " 11",
                                           "clone 12 " + nobody, "clone 13 12",
                                           "take back " + nobody + " 11", "adopt 10 0",
                                           "setpgid 13 13", "setpgid 12 11"});
  CHECK(plan.notes.empty());
}

TEST_CASE("a session and a group whose leaders are gone are begun by some that go again") {
  SnapshotBuilder builder;
  add(builder, 10, 1, 10, 10).record().set_child_subreaper(true);
  add(builder, 12, 10, 11, 11);
  add(builder, 13, 10, 11, 11);
  add(builder, 14, 10, 10, 20);
  const RestorePlan plan = plan_restore(*builder.build(), {});
  CHECK(births_of(plan) == std::vector<std::string>{"clone 10 0", "setsid 10 0", "clone 14 10",
                                                    "adopt 10 1", "lend 11 10", "setsid 11 0",
                                                    "clone 12 11", "clone 13 11", "take back 11 10",
                                                    "adopt 10 0", "lend 20 14", "setpgid 20 20",
                                                    "setpgid 14 20", "take back 20 14"});
  CHECK(plan.notes.empty());
}

TEST_CASE("members join a group after its leader, and zombies exit last") {
  SnapshotBuilder builder;
  add(builder, 10, 1, 10, 10);
  add(builder, 11, 10, 10, 12);
  add(builder, 12, 10, 10, 12);
  auto& zombie = builder.process(13, 10);
  zombie.record().set_state("Z");
  zombie.record().set_session(10);
  zombie.record().set_group(12);
  const auto births = births_of(plan_restore(*builder.build(), {}));
  const auto at = [&](const char* step) { return std::ranges::find(births, step); };
  CHECK(at("setpgid 12 12") < at("setpgid 11 12"));
  CHECK(at("setpgid 13 12") != births.end());
  CHECK(births.back() == "exit 13 0");
}

TEST_CASE("seeds lie where no process has anything") {
  SnapshotBuilder builder;
  add(builder, 10, 1, 10, 10).memory(0x100000, "low", 3);
  add(builder, 11, 10, 10, 10).memory(0x130000, "a bit higher", 3);
  const RestorePlan plan = plan_restore(*builder.build(), {});
  CHECK(plan.seed_base >= 0x131000);
  CHECK(plan.seed_base % kPageSize == 0);
}

TEST_CASE("descriptors of one open file are opened once") {
  SnapshotBuilder builder;
  for (const int32_t pid : {10, 11}) {
    auto& process = add(builder, pid, pid == 10 ? 1 : 10, 10, 10);
    pb::Descriptor& descriptor = *process.record().add_descriptors();
    descriptor.set_number(40 + pid);
    descriptor.set_description(7);
    descriptor.set_target("/dev/null");
    descriptor.set_mode(S_IFCHR | 0666);
    descriptor.mutable_device_node()->set_major(1);
  }
  const RestorePlan plan = plan_restore(*builder.build(), {});
  REQUIRE(plan.files.size() == 1);
  CHECK(plan.files[0].how == PlannedFile::How::kOpened);
  CHECK(plan.file_base > 51);
}

TEST_CASE("the first process of a pid namespace is the first of a new one") {
  SnapshotBuilder builder;
  auto& init = add(builder, 10, 1, 10, 10);
  init.record().add_ns_pids(10);
  init.record().add_ns_pids(1);
  const RestorePlan plan = plan_restore(*builder.build(), {});
  CHECK(births_of(plan).front() == "clone 1 0");
  CHECK_FALSE(is_in_the_way(plan, 10, "pid namespace"));
}

TEST_CASE("what cannot be restored is named, all of it") {
  SnapshotBuilder builder;
  auto& process = add(builder, 10, 1, 10, 10);
  process.unavailable(0x200000, 8192, "lost on the way");
  process.unavailable(0x300000, 4096, "a guard page", KeptBy::kKernel);
  process.last_thread().mutable_credentials()->set_seccomp_mode(2);
  pb::Descriptor& descriptor = *process.record().add_descriptors();
  descriptor.set_number(5);
  descriptor.set_description(1);
  descriptor.mutable_other();
  const auto snapshot = builder.build();
  const RestorePlan plan = plan_restore(*snapshot, {});
  CHECK(is_in_the_way(plan, 10, "lost on the way"));
  CHECK(is_in_the_way(plan, 10, "seccomp"));
  CHECK(is_in_the_way(plan, 10, "descriptor 5"));
  CHECK_FALSE(is_in_the_way(plan, 10, "guard page"));

  const RestorePlan without = plan_restore(*snapshot, {{"memory", "other"}});
  for (const Obstacle& obstacle : without.obstacles) CHECK(obstacle.resource == "seccomp");
  CHECK(without.files.at(0).how == PlannedFile::How::kLeftOut);
  CHECK(without.notes.size() >= 2);
}
