#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/resource/restorer.h"

namespace snapgdb {

struct RestoreOptions {
  std::set<std::string> without = {};  // of kinds_to_go_without()
  // Touches nothing outside: what cannot be had is replaced where that is possible.
  bool isolated = false;
  // What becomes of connections to outside of the tree.
  RestorePlan::Connections connections = RestorePlan::Connections::kRefused;
  // The tree runs before its memory is there.
  bool lazy = false;
};

// Kinds of descriptors ("socket", "timerfd", …, as the schema has them): each becomes one that
// fails as a lost connection would. "memory" that is not in the image: it reads as zeros;
// "processor": what this one lacks; "mounts", "network" of the tree's own: it has ours then;
// "system-v", "cgroups": they are left as they are.
std::vector<std::string> kinds_to_go_without();

// What a restore of the snapshot would do here, and what is in its way. Creates nothing.
RestorePlan plan_restore(const Snapshot& snapshot, const RestoreOptions& options);

// Adds as whom it runs, and what of its processes, threads and memory is in the way.
void check_tree(const Snapshot& snapshot, const RestoreOptions& options, RestorePlan& plan);

// The plan in words, line by line.
std::string describe(const RestorePlan& plan, const Snapshot& snapshot);

// What a mapping is, in words.
std::string describe(const pb::Vma& vma);

// What a descriptor is, in a word: "file", "socket", …
std::string_view kind_name(const pb::Descriptor& descriptor);

// Of the terminal that ours stands for in it; "": there was none.
std::string terminal_settings_for(const RestorePlan& plan);

}  // namespace snapgdb
