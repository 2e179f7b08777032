#include "core/resource/survey.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <exception>
#include <thread>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/host_task.h"

namespace snapgdb {
namespace {

// Resident bytes from which on smaps is not read while the process is stopped: it takes 10 ms a GiB.
constexpr uint64_t kLarge = uint64_t{16} << 20;
constexpr int kMaxRounds = 5;
constexpr int kLowPriority = 10;  // nice(2) of what runs beside the program

uint64_t kib(const ProcFields& status, std::string_view key) {
  return status.number(key) * 1024;
}

// Descriptors through which memory is written without the page table being asked: the pages are
// looked up once, and the device or the kernel writes to them later.
std::string direct_writer(const ProcDirectory& proc, const std::vector<ProcMapping>& mappings) {
  for (const std::string& name : proc.list("fd")) {
    const std::string target = proc.link_if_allowed("fd/" + name).value_or("");
    if (target == "anon_inode:[io_uring]" || target == "anon_inode:[userfaultfd]")
      return "it uses " + target;
    if (!target.starts_with('/')) continue;
    const ProcFields info(proc.read_if_allowed(("fdinfo/" + name).c_str()).value_or(""));
    if (info.number("flags", 8) & O_DIRECT) return "it has a file open with O_DIRECT";
  }
  const auto is_aio = [](const ProcMapping& mapping) { return mapping.name == "/[aio]"; };
  return std::ranges::any_of(mappings, is_aio) ? "it uses asynchronous I/O" : "";
}

void at_low_priority(const std::function<void()>& work) {
  std::exception_ptr failure;
  std::thread([&] {
    ::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kLowPriority);
    try {
      work();
    } catch (...) {
      failure = std::current_exception();
    }
  }).join();
  if (failure) std::rethrow_exception(failure);
}

// Whether `b` goes on where `a` ends, so that but for us they might be one mapping.
bool continues(const ProcMapping& a, const ProcMapping& b) {
  return a.end == b.start && a.protection == b.protection && a.shared == b.shared &&
         a.inode == b.inode && a.device_major == b.device_major &&
         a.device_minor == b.device_minor && a.name == b.name &&
         (a.inode == 0 || a.offset + (a.end - a.start) == b.offset);
}

bool is_edge(const Survey& survey, uint64_t address) {
  return std::ranges::any_of(survey.precopy->ranges(), [&](const WriteTracker::Range& range) {
    return range.start == address || range.end == address;
  });
}

// Tracking splits mappings at its edges.
std::vector<ProcMapping> without_our_splits(std::vector<ProcMapping> mappings,
                                            const Survey& survey) {
  std::vector<ProcMapping> joined;
  for (ProcMapping& mapping : mappings) {
    if (!joined.empty() && continues(joined.back(), mapping) && is_edge(survey, mapping.start))
      joined.back().end = mapping.end;
    else
      joined.push_back(std::move(mapping));
  }
  return joined;
}

bool is_same(const ProcMapping& a, const ProcMapping& b) {
  return a.start == b.start && a.end == b.end && a.protection == b.protection &&
         a.shared == b.shared && a.inode == b.inode && a.offset == b.offset && a.name == b.name;
}

}  // namespace

void Surveys::look(const std::vector<Pid>& roots, PageWriter& pages) {
  for (const Pid pid : tree_below(roots)) {
    try {
      look_at(pid);
    } catch (const SystemError&) {
      // It exited meanwhile, or is out of our reach: the freezer will say so.
    }
  }
  at_low_priority([&] { copy(pages); });
}

void Surveys::look_at(Pid pid) {
  const auto proc = ProcDirectory::of_if_alive(pid);
  if (!proc) return;
  const ProcFields status(proc->read("status"));
  const uint64_t anonymous = kib(status, "RssAnon");
  if (anonymous + kib(status, "RssFile") + kib(status, "RssShmem") < kLarge) {
    gadgets_.find(leader_of(pid), parse_mappings(proc->read("maps")));
    return;
  }
  Survey& survey = surveys_[pid];
  survey.mappings = parse_mappings(proc->read("smaps"));
  gadgets_.find(leader_of(pid), survey.mappings);
  if (anonymous < kWorthPreCopying) return;
  survey.why_not = direct_writer(*proc, survey.mappings);
  if (!survey.why_not.empty()) return;
  try {
    survey.precopy.emplace(pid, *proc, survey.mappings, gadgets_);
  } catch (const Error& error) {
    survey.why_not = error.why();
  }
}

void Surveys::copy(PageWriter& pages) {
  std::vector<Survey*> copied;
  for (auto& [pid, survey] : surveys_) {
    if (!survey.precopy) continue;
    if (survey.precopy->is_too_busy()) {
      survey.precopy.reset();
      survey.why_not = "it writes faster than could be copied";
      continue;
    }
    survey.precopy->copy_all(pages);
    copied.push_back(&survey);
  }
  // What the first ones wrote while the last ones were copied, and so on, until it is little.
  for (int round = 0; round < kMaxRounds && !copied.empty(); ++round)
    std::erase_if(copied, [&](Survey* survey) { return !survey->precopy->copy_again(pages); });
}

const Survey* Surveys::find(Pid pid) const {
  const auto found = surveys_.find(pid);
  return found == surveys_.end() ? nullptr : &found->second;
}

void Surveys::release() {
  at_low_priority([&] {
    for (auto& [pid, survey] : surveys_) survey.precopy.reset();
  });
}

std::vector<ProcMapping> mappings_now(const ProcDirectory& proc, const Survey* survey) {
  if (!survey) return parse_mappings(proc.read("smaps"));
  std::vector<ProcMapping> now = parse_mappings(proc.read("maps"));
  if (survey->precopy) now = without_our_splits(std::move(now), *survey);
  for (ProcMapping& mapping : now) {
    const auto before = std::ranges::lower_bound(survey->mappings, mapping.start, {},
                                                 [](const ProcMapping& m) { return m.start; });
    if (before != survey->mappings.end() && is_same(*before, mapping)) mapping = *before;
  }
  return now;
}

}  // namespace snapgdb
