#include "core/linux/ipc_settings.h"

#include <algorithm>
#include <fstream>

#include "core/base/error.h"
#include "core/base/strings.h"

namespace snapgdb {
namespace {

const std::string kRoot = "/proc/sys/";
constexpr const char* kNames[] = {"kernel/shmmax",
                                  "kernel/shmall",
                                  "kernel/shmmni",
                                  "kernel/shm_rmid_forced",
                                  "kernel/sem",
                                  "kernel/msgmax",
                                  "kernel/msgmnb",
                                  "kernel/msgmni",
                                  "fs/mqueue/msg_default",
                                  "fs/mqueue/msg_max",
                                  "fs/mqueue/msgsize_default",
                                  "fs/mqueue/msgsize_max",
                                  "fs/mqueue/queues_max"};

std::string value_of(const std::string& name) {
  std::string value;
  std::getline(std::ifstream(kRoot + name), value);
  return value;
}

}  // namespace

IpcSettings ipc_settings() {
  IpcSettings all;
  for (const char* name : kNames)
    if (std::string value = value_of(name); !value.empty()) all.emplace(name, std::move(value));
  return all;
}

std::vector<std::string> set_ipc_settings(const IpcSettings& wanted) {
  std::vector<std::string> notes;
  for (const auto& [name, value] : wanted) {
    if (!std::ranges::count(kNames, name) || value_of(name) == value) continue;
    std::ofstream(kRoot + name) << value << std::flush;
    if (const std::string now = value_of(name); now != value)
      notes.push_back(fmt::format("{} is \"{}\" instead of \"{}\"", name, now, printable(value)));
  }
  return notes;
}

}  // namespace snapgdb
