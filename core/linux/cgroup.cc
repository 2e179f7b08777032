#include "core/linux/cgroup.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>

#include "core/base/error.h"
#include "core/base/fd.h"
#include "core/base/strings.h"
#include "core/linux/procfs.h"

namespace snapgdb {
namespace {

namespace fs = std::filesystem;

// What has other effects than to be remembered, or counts what was.
constexpr std::array kNoSettings =
    std::to_array<std::string_view>({"cgroup.procs", "cgroup.threads", "tasks", "cgroup.kill",
                                     "release_agent", "cgroup.event_control"});
constexpr std::array kNoSettingsEnd = std::to_array<std::string_view>(
    {".pressure", ".peak", ".reclaim", ".force_empty", "failcnt", "max_usage_in_bytes", ".usage",
     "usage_all", ".cpu_exclusive", "_memory_pressure"});

bool is_setting(const fs::directory_entry& file) {
  const std::string name = file.path().filename();
  struct stat status {};
  return ::stat(file.path().c_str(), &status) == 0 && S_ISREG(status.st_mode) &&
         (status.st_mode & (S_IRUSR | S_IWUSR)) == (S_IRUSR | S_IWUSR) &&
         std::ranges::find(kNoSettings, name) == kNoSettings.end() &&
         std::ranges::none_of(kNoSettingsEnd,
                              [&](std::string_view end) { return name.ends_with(end); });
}

std::optional<std::string> read_if_allowed(const fs::path& path) {
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text(64 * 1024, '\0');
  const ssize_t n = file.valid() ? ::read(file.get(), text.data(), text.size()) : -1;
  if (n < 0) return std::nullopt;
  text.resize(static_cast<size_t>(n));
  return std::string(trim(text));
}

bool has_option(std::string_view options, std::string_view wanted) {
  const auto all = split(options, ',');
  return std::ranges::find(all, wanted) != all.end();
}

// Whether the options of a mount, "rw,cpu,cpuacct", are those of a hierarchy, "cpu,cpuacct".
bool is_hierarchy(std::string_view options, std::string_view hierarchy) {
  return std::ranges::all_of(split(hierarchy, ','), [&](std::string_view controller) {
    return has_option(options, controller);
  });
}

}  // namespace

std::optional<CgroupPlace> cgroup_place(std::string_view line) {
  const size_t first = line.find(':'), second = line.find(':', first + 1);
  if (first == std::string_view::npos || second == std::string_view::npos) return std::nullopt;
  return CgroupPlace{std::string(line.substr(first + 1, second - first - 1)),
                     std::string(line.substr(second + 1))};
}

Cgroups::Cgroups() {
  const ProcDirectory ours = ProcDirectory::of(Pid{::getpid()});
  const std::string mounts = ours.read("mountinfo"), hierarchies = ours.read("cgroup");
  for (const std::string_view line : split(mounts, '\n')) {
    const auto fields = split_blank(line);  // proc_pid_mountinfo(5)
    const auto dash = std::ranges::find(fields, "-");
    if (fields.end() - dash < 4 || fields.size() < 5) continue;
    const std::string_view type = dash[1], options = dash[3];
    const Mount mount{std::string(fields[3]), std::string(fields[4])};
    if (type == "cgroup2") mounts_[""].push_back(mount);
    if (type != "cgroup") continue;
    for (const std::string_view known : split(hierarchies, '\n'))
      if (const auto place = cgroup_place(known);
          place && !place->hierarchy.empty() && is_hierarchy(options, place->hierarchy))
        mounts_[place->hierarchy].push_back(mount);
  }
}

std::optional<std::string> Cgroups::directory(const CgroupPlace& place) const {
  const auto mounts = mounts_.find(place.hierarchy);
  if (mounts == mounts_.end() || place.path.find("/..") != std::string::npos) return std::nullopt;
  for (const Mount& mount : mounts->second) {
    if (mount.root == "/") return mount.point + (place.path == "/" ? "" : place.path);
    if (place.path == mount.root || place.path.starts_with(mount.root + "/"))
      return mount.point + place.path.substr(mount.root.size());
  }
  return std::nullopt;
}

bool Cgroups::is_there(const CgroupPlace& place) const {
  const auto path = directory(place);
  return path && ::access(path->c_str(), F_OK) == 0;
}

std::string Cgroups::existing(const CgroupPlace& place) const {
  const auto path = directory(place);
  if (!path)
    throw SystemError("cannot find cgroup " + printable(place.path), ENOENT,
                      "mount its hierarchy below /sys/fs/cgroup");
  return *path;
}

bool Cgroups::is_threaded(const CgroupPlace& place) const {
  const auto path = directory(place);
  const auto type = path ? read_if_allowed(*path + "/cgroup.type") : std::nullopt;
  return type && type->ends_with("threaded");
}

std::set<Pid> Cgroups::members(const CgroupPlace& place) const {
  std::set<Pid> pids;
  std::ifstream procs(existing(place) + "/cgroup.procs");
  for (pid_t pid = 0; procs >> pid;) pids.insert(Pid{pid});
  return pids;
}

Cgroups::Settings Cgroups::settings(const CgroupPlace& place) const {
  Settings settings;
  for (const fs::directory_entry& file : fs::directory_iterator(existing(place)))
    if (is_setting(file))
      if (const auto value = read_if_allowed(file.path()))
        settings.emplace(file.path().filename(), *value);
  return settings;
}

void Cgroups::make(const CgroupPlace& place) const {
  const std::string path = existing(place);
  if (::mkdir(path.c_str(), 0755) != 0) throw_errno("cannot make cgroup {}", printable(path));
}

void Cgroups::set(const CgroupPlace& place, const std::string& name,
                  const std::string& value) const {
  const std::string path = existing(place) + "/" + name;
  const Fd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file.valid() ||
      ::write(file.get(), value.data(), value.size()) != static_cast<ssize_t>(value.size()))
    throw_errno("cannot set {} to {}", printable(path), printable(value));
}

void Cgroups::move(const CgroupPlace& place, Pid pid) const {
  set(place, "cgroup.procs", std::to_string(pid.value));
}

void Cgroups::move(const CgroupPlace& place, Tid tid) const {
  set(place, place.hierarchy.empty() ? "cgroup.threads" : "tasks", std::to_string(tid.value));
}

}  // namespace snapgdb
