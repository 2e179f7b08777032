#pragma once

#include <map>
#include <span>
#include <string>

#include "gdbstub/link_map.h"

namespace snapgdb::gdbstub {

// The dynamic linker's names may lead through symbolic links: an image does not have those, and
// here they may lead to another version than where the tree was captured. So what a process has
// mapped under such a name is remembered.
class LibraryFiles {
 public:
  void learn(const Target& target, Pid pid, std::span<const LoadedObject> loaded);
  // "": it is no name of the linker's, or what is mapped there has no path.
  std::string mapped_as(const Target& target, Pid pid, const std::string& name);

 private:
  using Mapped = std::map<std::string, std::string>;
  std::map<Pid, Mapped> of_;  // of those learned of so far
};

}  // namespace snapgdb::gdbstub
