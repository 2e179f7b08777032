// Control groups, cgroups(7). Processes are put back where they were; cgroups of the tree's own are
// made again, with their settings, if they are gone.

#include "core/resource/cgroups.h"

#include <unistd.h>

#include <algorithm>
#include <ranges>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/resource/namespaces.h"

namespace snapgdb {
namespace {

using Lines = google::protobuf::RepeatedPtrField<std::string>;

constexpr std::string_view kFreeze = "cgroup.freeze";

std::vector<CgroupPlace> places_in(const Lines& lines) {
  std::vector<CgroupPlace> places;
  for (const std::string& line : lines)
    if (auto place = cgroup_place(line)) places.push_back(std::move(*place));
  return places;
}

bool is_below(const std::string& path, const std::string& above) {
  return path != above && (above == "/" || path.starts_with(above + "/"));
}

CgroupPlace place_of(const pb::Cgroup& cgroup) {
  return {cgroup.hierarchy(), cgroup.path()};
}

// ---- Capture ------------------------------------------------------------------------------------

std::string parent_of(const std::string& path) {
  return path.substr(0, std::max<size_t>(path.rfind('/'), 1));
}

// Those between `top`, which is not among them, and `place`, outermost first.
void add_way(const CgroupPlace& place, const std::string& top, std::set<CgroupPlace>& own) {
  for (std::string path = place.path; is_below(path, top);) {
    own.insert({place.hierarchy, path});
    path = parent_of(path);
  }
}

bool has_others(const Cgroups& cgroups, const CgroupPlace& place, const std::set<Pid>& tree) {
  return std::ranges::any_of(cgroups.members(place),
                             [&](const Pid pid) { return !tree.contains(pid); });
}

// Where the cgroup namespace of a process begins.
std::vector<CgroupPlace> roots_of(const pb::SnapshotRecord& record, const pb::Process& process) {
  const uint64_t inode = namespace_in(process.namespaces(), "cgroup");
  const auto space = std::ranges::find(record.spaces(), inode, &pb::NamespaceState::inode);
  return space == record.spaces().end() ? std::vector<CgroupPlace>()
                                        : places_in(space->cgroup_roots());
}

// In the order of their paths: each after those above it.
std::set<CgroupPlace> own_cgroups(const Cgroups& cgroups, const std::vector<pb::Process>& processes,
                                  const pb::SnapshotRecord& record) {
  std::set<Pid> pids;
  for (const pb::Process& process : processes) pids.insert(Pid{process.pid()});
  std::set<CgroupPlace> own;
  const std::vector<CgroupPlace> roots = roots_of(record, processes.front());
  for (const CgroupPlace& top : places_in(processes.front().cgroups())) {
    if (!cgroups.is_there(top)) continue;
    if (top.path != "/" && !has_others(cgroups, top, pids)) own.insert(top);
    for (const CgroupPlace& root : roots)
      if (root.hierarchy == top.hierarchy && root.path != "/" && is_below(top.path, root.path))
        add_way(top, parent_of(root.path), own);
    const auto add = [&](const Lines& lines) {
      for (const CgroupPlace& place : places_in(lines))
        if (place.hierarchy == top.hierarchy) add_way(place, top.path, own);
    };
    for (const pb::Process& process : processes) {
      add(process.cgroups());
      for (const pb::Thread& thread : process.threads()) add(thread.cgroups());
    }
  }
  return own;
}

// Only where such a thing may be: it would be a file more to read for each thread.
void find_places_of_threads(const Cgroups& cgroups, const FrozenProcess& frozen,
                            pb::Process& process, std::map<CgroupPlace, bool>& threaded) {
  const auto places = places_in(process.cgroups());
  const auto may_differ = [&](const CgroupPlace& place) {
    if (!place.hierarchy.empty()) return false;
    const auto [known, is_new] = threaded.try_emplace(place);
    if (is_new) known->second = cgroups.is_threaded(place);
    return known->second;
  };
  if (process.threads_size() < 2 || std::ranges::none_of(places, may_differ)) return;
  for (pb::Thread& thread : *process.mutable_threads()) {
    const std::string text = frozen.proc.task(Tid{thread.tid()}).read("cgroup");
    for (const std::string_view line : split(text, '\n'))
      if (std::ranges::find(process.cgroups(), line) == process.cgroups().end())
        thread.add_cgroups(std::string(line));
  }
}

}  // namespace

void capture_cgroups(CaptureContext& context, std::vector<pb::Process>& processes,
                     pb::SnapshotRecord& record) {
  const Cgroups cgroups;
  std::map<CgroupPlace, bool> threaded;  // what is known of them
  for (size_t i = 0; i < processes.size(); ++i)
    find_places_of_threads(cgroups, context.tree.processes[i], processes[i], threaded);
  for (const CgroupPlace& place : own_cgroups(cgroups, processes, record)) {
    pb::Cgroup& cgroup = *record.add_cgroups();
    cgroup.set_hierarchy(place.hierarchy);
    cgroup.set_path(place.path);
  }
}

void finish_cgroups(CaptureContext& context, pb::SnapshotRecord& record) {
  const Cgroups cgroups;
  std::vector<pb::Cgroup> kept;
  for (pb::Cgroup& cgroup : *record.mutable_cgroups()) {
    try {
      for (const auto& [name, value] : cgroups.settings(place_of(cgroup))) {
        pb::Cgroup::Setting& setting = *cgroup.add_settings();
        setting.set_name(name);
        setting.set_value(value);
      }
      kept.push_back(std::move(cgroup));
    } catch (const std::exception& error) {
      context.lacks(Pid{record.root_pid()}, {}, "cgroup " + cgroup.path(), error.what());
    }
  }
  record.mutable_cgroups()->Assign(kept.begin(), kept.end());
}

// What is "/c" inside and "/a/b/c" outside begins at "/a/b".
void add_cgroup_roots(std::string_view outside, std::string_view inside,
                      pb::NamespaceState& state) {
  std::map<std::string, std::string> paths_inside;
  for (const std::string_view line : split(inside, '\n'))
    if (auto place = cgroup_place(line)) paths_inside[place->hierarchy] = std::move(place->path);
  for (const std::string_view line : split(outside, '\n')) {
    const auto place = cgroup_place(line);
    const auto known = place ? paths_inside.find(place->hierarchy) : paths_inside.end();
    if (known == paths_inside.end()) continue;
    const std::string& path = place->path;
    const std::string rest = known->second == "/" ? "" : known->second;
    if (rest.starts_with("/..") || !path.ends_with(rest)) continue;
    const std::string root = path.substr(0, path.size() - rest.size());
    state.add_cgroup_roots(std::string(line.substr(0, line.size() - path.size())) +
                           (root.empty() ? "/" : root));
  }
}

// ---- Restoring ----------------------------------------------------------------------------------

namespace {

bool is_planned(const Cgroups& cgroups, const Snapshot& snapshot, const CgroupPlace& place) {
  return cgroups.is_there(place) ||
         std::ranges::any_of(snapshot.record().cgroups(), [&](const pb::Cgroup& cgroup) {
           return place_of(cgroup) == place && cgroups.directory(place);
         });
}

// Where a new process of ours would be.
std::set<CgroupPlace> our_places() {
  std::set<CgroupPlace> places;
  const std::string text = ProcDirectory::of(Pid{::getpid()}).read("cgroup");
  for (const std::string_view line : split(text, '\n'))
    if (const auto place = cgroup_place(line)) places.insert(*place);
  return places;
}

std::set<CgroupPlace> all_places(const Snapshot& snapshot) {
  std::set<CgroupPlace> places;
  const auto add = [&](const Lines& lines) {
    for (CgroupPlace& place : places_in(lines)) places.insert(std::move(place));
  };
  for (const pb::Process& process : snapshot.processes()) {
    add(process.cgroups());
    for (const pb::Thread& thread : process.threads()) add(thread.cgroups());
  }
  return places;
}

}  // namespace

namespace {

void plan_roots(const Snapshot& snapshot, const Cgroups& cgroups, const std::set<CgroupPlace>& ours,
                RestorePlan& plan) {
  const pb::NamespaceState* space = own_namespace(snapshot, snapshot.root(), "cgroup");
  if (!space || !plan.own_cgroups) return;
  for (const CgroupPlace& root : places_in(space->cgroup_roots())) {
    if (ours.contains(root)) continue;
    if (is_planned(cgroups, snapshot, root))
      plan.cgroup_roots.insert({root.hierarchy, root.path});
    else
      plan.notes.push_back(
          fmt::format("its cgroup namespace begins where we are, not at {}", printable(root.path)));
  }
  plan.cgroups.insert(plan.cgroup_roots.begin(), plan.cgroup_roots.end());
}

std::string begins_not_at(const std::string& path) {
  return fmt::format(
      "a cgroup namespace below begins where that of the first process does, not at {}",
      printable(path));
}

void plan_roots_below(const Snapshot& snapshot, const Cgroups& cgroups,
                      const std::set<CgroupPlace>& ours, bool without, RestorePlan& plan) {
  const auto is_where_it_is_made = [&](const CgroupPlace& root) {
    for (const auto& [hierarchy, path] : plan.cgroup_roots)
      if (hierarchy == root.hierarchy) return path == root.path;
    return ours.contains(root);
  };
  for (const pb::NamespaceState* space : plan.spaces) {
    if (space->kind() != "cgroup") continue;
    for (const CgroupPlace& root : places_in(space->cgroup_roots())) {
      if (is_where_it_is_made(root)) continue;
      if (!without && is_planned(cgroups, snapshot, root))
        plan.cgroup_roots_below.insert({root.hierarchy, root.path});
      else
        plan.notes.push_back(begins_not_at(root.path));
    }
  }
  plan.cgroups.insert(plan.cgroup_roots_below.begin(), plan.cgroup_roots_below.end());
}

}  // namespace

void plan_cgroups(const Snapshot& snapshot, bool without, RestorePlan& plan) {
  const std::set<CgroupPlace> ours = our_places();
  const Cgroups cgroups;
  if (!without && !plan.isolated) plan_roots(snapshot, cgroups, ours, plan);
  plan_roots_below(snapshot, cgroups, ours, without || plan.isolated, plan);
  std::vector<std::string> elsewhere;
  for (const CgroupPlace& place : all_places(snapshot)) {
    // Of a namespace that begins elsewhere, all have to be put somewhere.
    if (ours.contains(place) && plan.cgroup_roots.empty()) continue;
    if (!without && !plan.isolated && is_planned(cgroups, snapshot, place))
      plan.cgroups.insert({place.hierarchy, place.path});
    else
      elsewhere.push_back(printable(place.path));
  }
  if (elsewhere.empty()) return;
  plan.notes.push_back(fmt::format("the tree is in our cgroups, not in {}{}",
                                   fmt::join(elsewhere | std::views::take(5), ", "),
                                   plan.isolated || without ? "" : ", which are not there"));
}

void RestoredCgroups::note_once(const std::string& text) {
  if (std::ranges::find(notes_, text) == notes_.end()) notes_.push_back(text);
}

void RestoredCgroups::make(const Snapshot& snapshot, const RestorePlan& plan) {
  const auto is_used = [&](const CgroupPlace& place) {
    return std::ranges::any_of(plan.cgroups, [&](const auto& used) {
      return used.first == place.hierarchy &&
             (used.second == place.path || is_below(used.second, place.path));
    });
  };
  for (const pb::Cgroup& cgroup : snapshot.record().cgroups()) {
    const CgroupPlace place = place_of(cgroup);
    if (!is_used(place) || cgroups_.is_there(place)) continue;
    try {
      cgroups_.make(place);
      made_.push_back(place);
    } catch (const SystemError& error) {
      note_once(error.what());
      continue;
    }
    set_up(cgroup);
  }
}

namespace {

// What is to be written for the lines that are read of it; some take a line at a time.
std::vector<std::string> lines_to_write(const pb::Cgroup::Setting& setting) {
  std::vector<std::string> lines;
  if (setting.name() == "cgroup.type" && setting.value() != "threaded") return lines;
  if (setting.name() == "cgroup.subtree_control") {
    for (const std::string_view controller : split_blank(setting.value()))
      lines.push_back("+" + std::string(controller));
    return lines;
  }
  for (const std::string_view line : split(setting.value(), '\n')) lines.emplace_back(line);
  return lines;
}

}  // namespace

// Only what a new one has otherwise.
void RestoredCgroups::set_up(const pb::Cgroup& cgroup) {
  const CgroupPlace place = place_of(cgroup);
  const Cgroups::Settings now = cgroups_.settings(place);
  for (const pb::Cgroup::Setting& setting : cgroup.settings()) {
    const auto is = now.find(setting.name());
    const bool is_same = is != now.end() && is->second == setting.value();
    if (is_same || setting.name() == kFreeze) continue;
    try {
      for (const std::string& line : lines_to_write(setting))
        cgroups_.set(place, setting.name(), line);
    } catch (const SystemError& error) {
      note_once(error.what());
    }
  }
}

namespace {

bool is_planned(const RestorePlan& plan, const CgroupPlace& place) {
  return plan.cgroups.contains({place.hierarchy, place.path});
}

}  // namespace

template <typename Record, typename Id>
void RestoredCgroups::move_all(const RestorePlan& plan, const Record& record, Id real,
                               std::string_view who) {
  for (const CgroupPlace& place : places_in(record.cgroups())) {
    if (!is_planned(plan, place)) continue;
    try {
      cgroups_.move(place, real);
    } catch (const SystemError& error) {
      note_once(fmt::format("{} not in cgroup {} again: {}", who, printable(place.path),
                            errno_text(error.error_number())));
    }
  }
}

void RestoredCgroups::put(const RestorePlan& plan, const pb::Process& process, Pid real) {
  move_all(plan, process, real, "the tree is");
}

void RestoredCgroups::put(const RestorePlan& plan, const pb::Thread& thread, Tid real) {
  move_all(plan, thread, real, "threads are");
}

CgroupDoors RestoredCgroups::doors(const RestorePlan& plan) const {
  CgroupDoors doors;
  for (const auto& [hierarchy, path] : plan.cgroup_roots_below)
    if (const auto directory = cgroups_.directory({hierarchy, path}))
      doors[{hierarchy, path}] =
          Fd(::open((*directory + "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC));
  return doors;
}

std::vector<std::string> enter_root(const CgroupDoors& doors, const pb::NamespaceState& space) {
  std::vector<std::string> notes;
  for (const CgroupPlace& root : places_in(space.cgroup_roots()))
    if (const auto door = doors.find(root);
        door != doors.end() && ::write(door->second.get(), "0", 1) != 1)
      notes.push_back(begins_not_at(root.path));
  return notes;
}

void RestoredCgroups::put_where_namespace_begins(const RestorePlan& plan, Pid keeper) {
  for (const auto& [hierarchy, path] : plan.cgroup_roots) {
    try {
      cgroups_.move({hierarchy, path}, keeper);
    } catch (const SystemError& error) {
      note_once(fmt::format("its cgroup namespace begins where we are, not at {}: {}",
                            printable(path), errno_text(error.error_number())));
    }
  }
}

void RestoredCgroups::freeze_again(const Snapshot& snapshot) {
  for (const pb::Cgroup& cgroup : snapshot.record().cgroups()) {
    const auto is_made = std::ranges::find(made_, place_of(cgroup)) != made_.end();
    for (const pb::Cgroup::Setting& setting : cgroup.settings())
      if (is_made && setting.name() == kFreeze && setting.value() == "1")
        cgroups_.set(place_of(cgroup), setting.name(), setting.value());
  }
}

// Those who were in it may still be on their way out.
RestoredCgroups::~RestoredCgroups() {
  constexpr int kTries = 200;
  for (const CgroupPlace& place : made_ | std::views::reverse) {
    const auto path = cgroups_.directory(place);
    for (int i = 0; path && i < kTries && ::rmdir(path->c_str()) != 0 && errno == EBUSY; ++i)
      ::usleep(5000);
  }
}

}  // namespace snapgdb
