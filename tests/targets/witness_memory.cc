#include "witness_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>

namespace witness {
namespace {

using target::cannot;
using target::differs;
using target::mix;
using target::setup;

constexpr size_t kPage = 4096;
constexpr int kReadWrite = PROT_READ | PROT_WRITE;
constexpr int kAnonymous = MAP_PRIVATE | MAP_ANONYMOUS;

uint64_t expected_word(const Region& region, size_t index) {
  return region.seed ? mix(region.seed * 0x10001 + index) : 0;
}

void fill(const Region& region) {
  auto* words = reinterpret_cast<uint64_t*>(region.address);
  for (size_t i = 0; i < region.size / 8; ++i) words[i] = expected_word(region, i);
}

char* map(size_t size, int protection, int flags, int fd = -1, off_t offset = 0) {
  void* address = mmap(nullptr, size, protection, flags, fd, offset);
  if (address == MAP_FAILED) cannot("mmap");
  return static_cast<char*>(address);
}

// A new file of that many pages of the pattern `seed`.
int patterned_file(const std::string& path, size_t pages, uint64_t seed) {
  const int fd = setup("open", open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  std::vector<char> content(pages * kPage);
  fill({"", content.data(), content.size(), seed});
  if (write(fd, content.data(), content.size()) < 0) cannot("write");
  return fd;
}

std::string file_name(const char* stem, uint64_t role) {
  return stem + std::to_string(role);
}

}  // namespace

SharedMemory::SharedMemory(const target::ScratchDirectory& scratch) {
  const auto add = [&](const char* name, int flags, int fd, uint64_t seed) {
    regions_.push_back({name, map(4 * kPage, kReadWrite, MAP_SHARED | flags, fd), 4 * kPage, seed});
    fill(regions_.back());
    if (fd >= 0) close(fd);
  };
  add("shared-anonymous", MAP_ANONYMOUS, -1, 0x51);
  add("shared-file", 0, patterned_file(scratch.path("shared"), 4, 1), 0x52);
  const int memfd = setup("memfd_create", memfd_create("witness \"memfd\"", MFD_CLOEXEC));
  setup("ftruncate", ftruncate(memfd, 4 * kPage));
  add("shared-memfd", 0, memfd, 0x53);
}

PrivateMemory::PrivateMemory(const target::ScratchDirectory& scratch, uint64_t role) : role_(role) {
  map_files(scratch);
  map_anonymous();
  map_sparse();
  map_with_advice();
  allocate();
}

void PrivateMemory::map_files(const target::ScratchDirectory& scratch) {
  const std::string path = scratch.path(file_name("private file ", role_).c_str());
  const int fd = patterned_file(path, 1, 0x61);
  setup("ftruncate", ftruncate(fd, 3 * kPage));  // the third page is a hole in the file
  char* file = map(5 * kPage, kReadWrite, MAP_PRIVATE, fd);
  regions_.push_back({"file-as-it-is", file, kPage, 0x61});
  regions_.push_back({"file-modified", file + kPage, kPage, 0x6100 + role_});
  fill(regions_.back());
  regions_.push_back({"file-hole", file + 2 * kPage, kPage, 0});
  regions_.push_back({"file-beyond-its-end", file + 3 * kPage, 2 * kPage, 0, false, true, true});
  close(fd);

  const std::string deleted = scratch.path(file_name("deleted", role_).c_str());
  const int deleted_fd = patterned_file(deleted, 1, 0x62);
  setup("ftruncate", ftruncate(deleted_fd, 2 * kPage));
  char* gone = map(2 * kPage, kReadWrite, MAP_PRIVATE, deleted_fd);
  unlink(deleted.c_str());
  close(deleted_fd);
  regions_.push_back({"deleted-file-as-it-is", gone, kPage, 0x62});
  regions_.push_back({"deleted-file-modified", gone + kPage, kPage, 0x6200 + role_});
  fill(regions_.back());
}

void PrivateMemory::map_anonymous() {
  const auto add = [&](const char* name, uint64_t seed) {
    regions_.push_back({name, map(4 * kPage, kReadWrite, kAnonymous), 4 * kPage, seed});
    fill(regions_.back());
  };
  add("equal-in-all-processes", 0x71);
  add("own", 0x7200 + role_);
  add("written-zeros", 0);
  add("not-accessible", 0x7300 + role_);
  setup("mprotect", mprotect(regions_.back().address, 4 * kPage, PROT_NONE));
  regions_.back().readable = false;
  add("read-only", 0x7400 + role_);
  setup("mprotect", mprotect(regions_.back().address, 4 * kPage, PROT_READ));

  char* read = map(kPage, kReadWrite, kAnonymous);
  if (*static_cast<volatile char*>(read)) differs("new memory is not zero");
  regions_.push_back({"read-only-ever", read, kPage, 0});
}

// 16 GiB of addresses with five pages behind them: at the ends, and one all by itself.
void PrivateMemory::map_sparse() {
  constexpr size_t size = size_t{16} << 30;
  char* sparse = map(size, kReadWrite, kAnonymous | MAP_NORESERVE);
  setup("madvise", madvise(sparse, size, MADV_NOHUGEPAGE));
  const auto add = [&](const char* name, size_t page, size_t pages, uint64_t seed) {
    regions_.push_back({name, sparse + page * kPage, pages * kPage, seed});
    if (seed) fill(regions_.back());
    regions_.back().absent = seed == 0;
  };
  constexpr size_t last = size / kPage - 1;
  add("sparse-first", 0, 2, 0x8100 + role_);
  add("sparse-hole", 2, 3, 0);
  add("sparse-middle", last / 2, 1, 0x8200 + role_);
  add("sparse-hole-2", last / 2 + 1, 3, 0);
  add("sparse-last", last - 1, 2, 0x8300 + role_);
}

void PrivateMemory::map_with_advice() {
  const struct {
    const char* name;
    int advice;
  } kinds[] = {{"left-out-of-cores", MADV_DONTDUMP},
               {"not-inherited", MADV_DONTFORK},
               {"wiped-on-fork", MADV_WIPEONFORK},
               {"mergeable", MADV_MERGEABLE}};
  for (const auto& kind : kinds) {
    char* address = map(2 * kPage, kReadWrite, kAnonymous);
    madvise(address, 2 * kPage, kind.advice);  // not every kernel has every one
    regions_.push_back({kind.name, address, 2 * kPage, 0x9000 + kind.advice + (role_ << 20)});
    fill(regions_.back());
  }
  char* locked = map(kPage, kReadWrite, kAnonymous);
  mlock(locked, kPage);
  regions_.push_back({"locked", locked, kPage, 0x9100 + role_});
  fill(regions_.back());

  constexpr size_t huge = 2 << 20;
  char* address = map(2 * huge, kReadWrite, kAnonymous);
  address += (huge - reinterpret_cast<uintptr_t>(address) % huge) % huge;
  madvise(address, huge, MADV_HUGEPAGE);
  regions_.push_back({"huge", address, huge, 0x9200 + role_});
  fill(regions_.back());
}

void PrivateMemory::allocate() {
  for (const size_t size : {64u, 4000u, 300000u}) {
    auto* block = static_cast<char*>(malloc(size));
    regions_.push_back({"heap", block, size, 0xa000 + size + (role_ << 32)});
    fill(regions_.back());
  }
}

void say_regions(const std::vector<Region>& regions) {
  for (const Region& region : regions) {
    target::say("range %d %s 0x%lx %zu %s", getpid(), region.name,
                reinterpret_cast<unsigned long>(region.address), region.size,
                region.fault ? "unreadable" : "bytes");
  }
}

namespace {

void check_absent(const Region& region) {
  for (size_t at = 0; at < region.size; at += kPage) {
    unsigned char present = 0;
    if (mincore(region.address + at, kPage, &present) == 0 && (present & 1)) {
      differs("%s: a page has appeared in the hole", region.name);
    }
  }
}

void check_content(const Region& region) {
  const auto* words = reinterpret_cast<const uint64_t*>(region.address);
  for (size_t i = 0; i < region.size / 8; ++i) {
    if (words[i] == expected_word(region, i)) continue;
    differs("%s: byte %zu is 0x%lx, should be 0x%lx", region.name, i * 8, words[i],
            expected_word(region, i));
    return;
  }
}

}  // namespace

void check_regions(const std::vector<Region>& regions) {
  for (const Region& region : regions) {
    if (region.absent && !region.fault) check_absent(region);
    if (region.fault) continue;
    if (!region.readable) mprotect(region.address, region.size, PROT_READ);
    check_content(region);
  }
}

}  // namespace witness
