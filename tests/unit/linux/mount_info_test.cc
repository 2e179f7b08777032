#include "core/linux/mount_info.h"

#include <sys/mount.h>
#include <sys/sysmacros.h>

#include <catch2/catch.hpp>

namespace snapgdb {
namespace {

TEST_CASE("a line of mountinfo is read with its blanks, groups and options") {
  const auto mounts = parse_mount_info(
      "36 35 98:7 /a\\040b /mnt\\011x ro,nosuid,noatime shared:3 master:1 propagate_from:2 - ext3 "
      "/dev/root rw,errors=continue\n"
      "37 36 0:40 / /mnt\\011x/t rw,nodev unbindable - tmpfs  rw,size=4k\n");
  REQUIRE(mounts.size() == 2);
  CHECK(mounts[0].id == 36);
  CHECK(mounts[0].parent == 35);
  CHECK(mounts[0].device == makedev(98, 7));
  CHECK(mounts[0].root == "/a b");
  CHECK(mounts[0].point == "/mnt\tx");
  CHECK(mounts[0].attributes == (MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOATIME));
  CHECK(mounts[0].shared == 3);
  CHECK(mounts[0].master == 1);
  CHECK(mounts[0].options == "rw,errors=continue");
  CHECK(mounts[1].attributes == (MOUNT_ATTR_NODEV | MOUNT_ATTR_STRICTATIME));
  CHECK(mounts[1].unbindable);
  CHECK(mounts[1].type == "tmpfs");
  CHECK(mounts[1].source == "");
  CHECK(mounts[1].options == "rw,size=4k");
}

TEST_CASE("lines that are cut off are no mounts") {
  CHECK(parse_mount_info("").empty());
  CHECK(parse_mount_info("36 35 98:0 / /mnt rw").empty());
  CHECK(parse_mount_info("36 35 98:0 / /mnt rw - ext3").empty());
}

TEST_CASE("mounts come in an order in which they can be made") {
  const auto mounts = parse_mount_info(
      "30 20 0:30 / /a rw - tmpfs none rw\n"  // hides 21 and 22
      "20 1 0:20 / / rw - ext4 /dev/root rw\n"
      "31 30 0:31 / /a/b rw - tmpfs none rw\n"
      "22 21 0:22 / /a/b rw - tmpfs none rw\n"
      "21 20 0:21 / /a/b rw - tmpfs none rw\n");
  std::vector<int> ids;
  for (const MountInfo& mount : mounts) ids.push_back(mount.id);
  CHECK(ids == std::vector<int>{20, 21, 22, 30, 31});
}

TEST_CASE("a path leads to the mount that is met last on the way, not to what is hidden") {
  const auto mounts = parse_mount_info(
      "5 2 0:5 / /dev/shm rw,relatime - tmpfs hidden rw\n"
      "2 1 0:2 / / rw,relatime - ext4 root rw\n"
      "3 2 0:3 / /dev rw,relatime - tmpfs dev rw\n"
      "4 3 0:4 / /dev/pts rw,relatime - devpts pts rw\n"
      "6 2 0:6 / /proc rw,relatime - proc first rw\n"
      "7 6 0:7 / /proc rw,relatime - proc second rw\n");
  const auto source_at = [&](const char* path) { return mount_at(mounts, path)->source; };
  CHECK(source_at("/") == "root");
  CHECK(source_at("/development") == "root");
  CHECK(source_at("/dev") == "dev");
  CHECK(source_at("/dev/pts/3") == "pts");
  CHECK(source_at("/dev/shm/x") == "dev");
  CHECK(source_at("/proc/self") == "second");
  CHECK(mounts.front().source == "root");
}

TEST_CASE("paths are put together and taken apart at whole names") {
  CHECK(is_at_or_below("/a/b", "/a"));
  CHECK(is_at_or_below("/a", "/"));
  CHECK_FALSE(is_at_or_below("/ab", "/a"));
  CHECK(below("/a/b", "/a") == "/b");
  CHECK(below("/", "/") == "");
  CHECK(below("/a", "/") == "/a");
  CHECK(joined("/", "/a") == "/a");
  CHECK(joined("/a", "") == "/a");
  CHECK(joined("/a", "/b") == "/a/b");
}

}  // namespace
}  // namespace snapgdb
