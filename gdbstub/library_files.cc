#include "gdbstub/library_files.h"

namespace snapgdb::gdbstub {

void LibraryFiles::learn(const Target& target, Pid pid, std::span<const LoadedObject> loaded) {
  Mapped& mapped = of_[pid];
  mapped.clear();
  for (const LoadedObject& object : loaded)
    mapped.emplace(object.linker_name, mapped_name(target, pid, object));
}

std::string LibraryFiles::mapped_as(const Target& target, Pid pid, const std::string& name) {
  if (!of_.contains(pid)) learn(target, pid, read_link_map(target, pid));
  const Mapped& mapped = of_.at(pid);
  const auto found = mapped.find(name);
  return found == mapped.end() ? "" : found->second;
}

}  // namespace snapgdb::gdbstub
