#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "core/image/chunk.h"

namespace snapgdb {

// The most recently used chunks, decompressed, by their offset in the image. Safe to share between
// threads; two threads that miss the same chunk at once both load it, and one copy is kept.
class PageCache {
 public:
  using Load = std::function<std::shared_ptr<const Bytes>()>;

  std::shared_ptr<const Bytes> get(uint64_t key, const Load& load) {
    {
      const std::lock_guard lock(mutex_);
      if (const auto found = by_key_.find(key); found != by_key_.end()) {
        entries_.splice(entries_.begin(), entries_, found->second);
        return found->second->second;
      }
    }
    std::shared_ptr<const Bytes> bytes = load();
    const std::lock_guard lock(mutex_);
    if (by_key_.contains(key)) return bytes;
    entries_.emplace_front(key, bytes);
    by_key_[key] = entries_.begin();
    if (entries_.size() > kChunks) {
      by_key_.erase(entries_.back().first);
      entries_.pop_back();
    }
    return bytes;
  }

 private:
  static constexpr size_t kChunks = 64;  // of 1 MiB each

  using Entry = std::pair<uint64_t, std::shared_ptr<const Bytes>>;
  std::mutex mutex_;
  std::list<Entry> entries_;
  std::unordered_map<uint64_t, std::list<Entry>::iterator> by_key_;
};

}  // namespace snapgdb
