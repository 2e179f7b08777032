#include "gdbstub/link_map.h"

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/user.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "conversation.h"
#include "core/base/fd.h"
#include "gdbstub/snapshot_target.h"
#include "gdbstub/thread_local.h"

namespace snapgdb::gdbstub {
namespace {

thread_local int own_variable = 4711;

// A snapshot of the running test itself: what its dynamic linker has made of memory is the real
// thing, and the test knows the answers. Large mappings (a sanitizer's) are left out.
std::shared_ptr<const Snapshot> snapshot_of_myself() {
  constexpr uint64_t kTooLarge = 64 << 20;
  SnapshotBuilder builder;
  auto& process = builder.process(16).thread(16);
  const Fd auxv(open("/proc/self/auxv", O_RDONLY | O_CLOEXEC));
  process.record().set_auxv(read_whole(auxv.get(), "auxv"));
  const Fd memory(open("/proc/self/mem", O_RDONLY | O_CLOEXEC));
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    uint64_t start = 0, end = 0;
    char letters[5] = "";
    int name_at = 0;
    sscanf(line.c_str(), "%lx-%lx %4s %*x %*s %*u %n", &start, &end, letters, &name_at);
    if (letters[0] != 'r' || end - start > kTooLarge || start >> 47) continue;
    std::string content(end - start, '\0');
    if (pread(memory.get(), content.data(), content.size(), static_cast<off_t>(start)) !=
        static_cast<ssize_t>(content.size()))
      continue;
    process.memory(start, content, PROT_READ, line.substr(static_cast<size_t>(name_at)));
  }
  user_regs_struct registers{};
  std::memcpy(&registers, process.last_thread().registers().data(), sizeof registers);
  registers.fs_base = reinterpret_cast<uint64_t>(__builtin_thread_pointer());
  process.last_thread().set_registers(&registers, sizeof registers);
  return builder.build();
}

struct Loaded {
  uint64_t offset;
  std::string name;
};

std::vector<Loaded> loaded_objects() {
  std::vector<Loaded> out;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* result) {
        static_cast<std::vector<Loaded>*>(result)->push_back({info->dlpi_addr, info->dlpi_name});
        return 0;
      },
      &out);
  return out;
}

// Where a thread-local variable lies in its object's block, and which object that is.
struct Variable {
  uint64_t link_map = 0;
  uint64_t offset = 0;
};

Variable describe_variable(const void* address, std::span<const LoadedObject> objects) {
  struct Search {
    uint64_t wanted, base = 0, block = 0;
  } search{reinterpret_cast<uint64_t>(address)};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        auto& found = *static_cast<Search*>(data);
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto block = reinterpret_cast<uint64_t>(info->dlpi_tls_data);
          if (info->dlpi_phdr[i].p_type == PT_TLS &&
              found.wanted - block < info->dlpi_phdr[i].p_memsz)
            found.base = info->dlpi_addr, found.block = block;
        }
        return 0;
      },
      &search);
  for (const LoadedObject& object : objects)
    if (object.load_offset == search.base) return {object.link_map, search.wanted - search.block};
  throw std::runtime_error("the variable's object is not in the list");
}

}  // namespace

TEST_CASE("lldb is told where the dynamic linker has noted its list") {
  Conversation client(snapshot_of_myself());
  const auto slot = parse_number<uint64_t>(client.ask("qShlibInfoAddr"), 16);
  REQUIRE(slot);
  uint64_t noted = 0;
  const auto reply = from_hex(client.ask(fmt::format("m{:x},8", *slot)));
  REQUIRE(reply);
  REQUIRE(reply->size() == sizeof noted);
  std::memcpy(&noted, reply->data(), sizeof noted);
  // Not &_r_debug: a program that names that has a copy of it.
  const ElfW(Dyn)* entry = _DYNAMIC;
  while (entry->d_tag != DT_DEBUG && entry->d_tag != DT_NULL) ++entry;
  REQUIRE(entry->d_tag == DT_DEBUG);
  CHECK(noted == entry->d_un.d_ptr);
  SnapshotBuilder nothing;
  nothing.process(16).thread(16);
  CHECK(Conversation(nothing.build()).ask("qShlibInfoAddr") == "E02");
}

TEST_CASE("the objects found in memory are those that the dynamic linker has loaded") {
  const SnapshotTarget target(snapshot_of_myself());
  const auto found = read_link_map(target, Pid{16});
  const auto loaded = loaded_objects();
  REQUIRE(found.size() == loaded.size());
  for (size_t i = 0; i < found.size(); ++i) {
    CHECK(found[i].load_offset == loaded[i].offset);
    CHECK(found[i].linker_name == loaded[i].name);
    if (loaded[i].name.starts_with('/'))
      CHECK(mapped_name(target, Pid{16}, found[i]).starts_with('/'));
  }
}

TEST_CASE("gdb is told of libraries by the dynamic linker's names, if those are paths") {
  Conversation client(snapshot_of_myself());
  const std::string xml = client.fetch("libraries-svr4");
  const SnapshotTarget target(snapshot_of_myself());
  const auto objects = read_link_map(target, Pid{16});
  CHECK(contains(xml, fmt::format("main-lm=\"{:#x}\"", objects.front().link_map)));
  CHECK_FALSE(contains(xml, fmt::format(" lm=\"{:#x}\"", objects.front().link_map)));
  for (size_t i = 1; i < objects.size(); ++i) {
    const std::string& name = objects[i].linker_name;
    CHECK(contains(xml, fmt::format("name=\"{}\" lm=\"{:#x}\"", name, objects[i].link_map)));
  }
  client.ask("QEnableErrorStrings");
  CHECK(contains(client.fetch("libraries-svr4"),
                 fmt::format(" lm=\"{:#x}\"", objects.front().link_map)));
}

TEST_CASE("thread-local variables are found, the program's own and the C library's") {
  const SnapshotTarget target(snapshot_of_myself());
  const auto objects = read_link_map(target, Pid{16});
  for (const void* wanted :
       {static_cast<const void*>(&own_variable), static_cast<const void*>(&errno)}) {
    const Variable variable = describe_variable(wanted, objects);
    CHECK(thread_local_address(target, {Pid{16}, Tid{16}}, variable.link_map, variable.offset) ==
          reinterpret_cast<uint64_t>(wanted));
  }
}

TEST_CASE("the executable's variables are found without its link_map too, as in a static program") {
  const SnapshotTarget target(snapshot_of_myself());
  const Variable variable = describe_variable(&own_variable, read_link_map(target, Pid{16}));
  CHECK(thread_local_address(target, {Pid{16}, Tid{16}}, 0, variable.offset) ==
        reinterpret_cast<uint64_t>(&own_variable));
}

TEST_CASE("a thread-local variable that cannot be found is an error") {
  SnapshotBuilder builder;
  builder.process(16).thread(16);
  Conversation client(builder.build());
  CHECK(client.ask("qGetTLSAddr:p10.10,10,7000").starts_with('E'));
}

TEST_CASE("no list at all is an empty one") {
  SnapshotBuilder builder;
  builder.process(16).thread(16);
  Conversation client(builder.build());
  CHECK(client.fetch("libraries-svr4") ==
        "<library-list-svr4 version=\"1.0\">\n</library-list-svr4>\n");
}

}  // namespace snapgdb::gdbstub
