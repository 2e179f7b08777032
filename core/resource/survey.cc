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
#include "core/resource/memory.h"

namespace snapgdb {
namespace {

constexpr int kMaxRounds = 5;
constexpr int kLowPriority = 10;  // nice(2) of what runs beside the program

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

// A process may exit, or exec, at any time.
bool unless_it_ends(Survey& survey, const std::function<bool()>& work) {
  try {
    return work();
  } catch (const SystemError& error) {
    survey.precopy.reset();
    survey.why_not = error.what();
    return false;
  }
}

bool begin_copy(Survey& survey, PageWriter& pages) {
  if (survey.precopy->is_too_busy()) {
    survey.precopy.reset();
    survey.why_not = "it writes faster than could be copied";
    return false;
  }
  survey.precopy->copy_all(pages);
  return true;
}

bool is_same(const ProcMapping& a, const ProcMapping& b) {
  return a.start == b.start && a.end == b.end && a.protection == b.protection &&
         a.shared == b.shared && a.inode == b.inode && a.offset == b.offset && a.name == b.name;
}

}  // namespace

void Surveys::look(const std::vector<Pid>& roots, PageWriter& pages) {
  FrameChain::warm_up();
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
  Survey& survey = surveys_[pid];
  survey.mappings = parse_mappings(proc->read("smaps"));
  gadgets_.find(leader_of(pid), survey.mappings);
  if (status.number("RssAnon") * 1024 < kWorthPreCopying) return;
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
  for (auto& [pid, survey] : surveys_)
    if (survey.precopy && unless_it_ends(survey, [&] { return begin_copy(survey, pages); }))
      copied.push_back(&survey);
  // What the first ones wrote while the last ones were copied, and so on, until it is little.
  for (int round = 0; round < kMaxRounds && !copied.empty(); ++round)
    std::erase_if(copied, [&](Survey* survey) {
      return !unless_it_ends(*survey, [&] { return survey->precopy->copy_again(pages); });
    });
}

void Surveys::refresh(PageWriter& pages) {
  for (auto& [pid, survey] : surveys_)
    if (survey.precopy) unless_it_ends(survey, [&] { return survey.precopy->copy_again(pages); });
}

Survey* Surveys::find(Pid pid) {
  const auto found = surveys_.find(pid);
  return found == surveys_.end() ? nullptr : &found->second;
}

uint64_t Surveys::to_secure() const {
  uint64_t bytes = 0;
  for (const auto& [pid, survey] : surveys_) {
    uint64_t copied = 0;
    for (const ProcMapping& mapping : survey.mappings) {
      const bool is_copied = survey.precopy && survey.precopy->tracks(mapping.start, mapping.end);
      for (const MappingSize which :
           {mapping.shared ? MappingSize::kRss : MappingSize::kAnonymous,
            MappingSize::kPrivateHugetlb, MappingSize::kSharedHugetlb, MappingSize::kSwap})
        (is_copied ? copied : bytes) += mapping.size(which);
    }
    bytes += std::min(copied, kWorthATwin);
  }
  return bytes;
}

void Surveys::release() {
  at_low_priority([&] {
    for (auto& [pid, survey] : surveys_) survey.precopy.reset();
  });
}

std::vector<ProcMapping> mappings_now(const FrozenProcess& frozen, Survey* survey) {
  if (!survey) return parse_mappings(frozen.task_proc.read("smaps"));
  std::vector<ProcMapping> now = frozen.mappings();
  for (ProcMapping& mapping : now) {
    const auto before = std::ranges::lower_bound(survey->mappings, mapping.start, {},
                                                 [](const ProcMapping& m) { return m.start; });
    if (before != survey->mappings.end() && is_same(*before, mapping)) mapping = std::move(*before);
  }
  return now;
}

}  // namespace snapgdb
