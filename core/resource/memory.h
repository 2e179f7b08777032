#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/image/extents.h"
#include "core/image/page_writer.h"
#include "core/linux/remote_memory.h"
#include "core/resource/resource.h"

namespace snapgdb {

struct MemoryOptions {
  // Also what the program keeps out of dumps (MADV_DONTDUMP).
  bool include_dontdump = false;
};

// How the content of one address space will be had. Made while the tree is stopped, from the page
// table; carried out by copy_memory.
struct MemoryRun {
  uint64_t start = 0, size = 0;
  enum class From { kMemory, kObject, kFile, kZero, kMissing } from = From::kZero;
  uint64_t offset = 0;                    // kObject, kFile
  uint32_t file = 0;                      // kFile
  std::shared_ptr<const Fd> object = {};  // kObject: shared memory, read through its file
  const char* why = "";                   // kMissing
  bool refused = false;                   // kMissing because program or kernel wants it so
};

// Precondition: process.mappings() were captured.
std::vector<MemoryRun> plan_memory(const FrozenProcess& frozen, const pb::Process& process,
                                   const FileRegistry& files, const MemoryOptions& options);

// Reads what the plan says and gives its pages to `pages`; returns what lies where.
Extents copy_memory(const std::vector<MemoryRun>& plan, const MemorySource& memory,
                    PageWriter& pages);

}  // namespace snapgdb
