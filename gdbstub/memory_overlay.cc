#include "gdbstub/memory_overlay.h"

#include <algorithm>
#include <cstring>

#include "core/image/extents.h"

namespace snapgdb::gdbstub {
namespace {

struct Overlap {
  size_t in_range, in_page, size;
};

// Where [address, address + size) and a page meet.
Overlap overlap(uint64_t address, size_t size, uint64_t page) {
  const size_t in_range = page > address ? page - address : 0;
  const size_t in_page = address > page ? address - page : 0;
  return {in_range, in_page, std::min<size_t>(size - in_range, kPageSize - in_page)};
}

}  // namespace

size_t MemoryOverlay::read(uint64_t address, std::span<std::byte> out,
                           const ReadBelow& below) const {
  const size_t readable = below(address, out);
  for (auto page = pages_.lower_bound(page_down(address));
       page != pages_.end() && (page->first < address || page->first - address < readable);
       ++page) {
    const Overlap common = overlap(address, readable, page->first);
    std::memcpy(out.data() + common.in_range, page->second.data() + common.in_page, common.size);
  }
  size_t size = readable;
  for (auto page = pages_.find(page_down(address + size));
       size < out.size() && page != pages_.end() && page->first == page_down(address + size);
       ++page) {
    const Overlap common = overlap(address, out.size(), page->first);
    std::memcpy(out.data() + common.in_range, page->second.data() + common.in_page, common.size);
    size = common.in_range + common.size;
  }
  return size;
}

void MemoryOverlay::add(uint64_t address, uint64_t size) {
  for (uint64_t page = address; page < address + size; page += kPageSize)
    pages_.insert_or_assign(page, std::string(kPageSize, '\0'));
}

void MemoryOverlay::drop(uint64_t address, uint64_t size) {
  pages_.erase(pages_.lower_bound(address), pages_.lower_bound(address + size));
}

bool MemoryOverlay::write(uint64_t address, std::span<const std::byte> bytes,
                          const ReadBelow& below) {
  if (bytes.empty()) return true;
  const uint64_t last = address + (bytes.size() - 1);
  if (last < address) return false;
  std::map<uint64_t, std::string> changed;
  for (uint64_t page = page_down(address); page <= last && page >= page_down(address);
       page += kPageSize) {
    std::string content(kPageSize, '\0');
    if (read(page, std::as_writable_bytes(std::span(content)), below) != kPageSize) return false;
    const Overlap common = overlap(address, bytes.size(), page);
    std::memcpy(content.data() + common.in_page, bytes.data() + common.in_range, common.size);
    changed.emplace(page, std::move(content));
  }
  for (auto& [page, content] : changed) pages_.insert_or_assign(page, std::move(content));
  return true;
}

}  // namespace snapgdb::gdbstub
