// The kernel tells nobody how much it would undo. But it refuses changes that lead out of the range
// of that (SEMAEM), and by another error than for one that would have to wait. So a process is made
// to call semop(2) with several changes, the last of which would have to wait: none of them takes
// effect, and nobody sees one (perform_atomic_semop(), ipc/sem.c).

#include "core/resource/semaphore_undo.h"

#include <sys/sem.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <ranges>
#include <set>

#include "core/base/error.h"
#include "core/linux/system_v.h"
#include "core/resource/hosts.h"
#include "core/resource/inquiry.h"
#include "core/resource/resources.h"
#include "core/resource/spaces.h"
#include "core/resource/system_v_records.h"

namespace snapgdb {
namespace {

constexpr int kLargest = 32767;         // SEMVMX; so is SEMAEM
constexpr int kLeast = -kLargest - 1;   // of what is undone
constexpr size_t kMostOperations = 32;  // of one call, where kernel.sem is at its old default

// Those of one call.
class Changes {
 public:
  // It is about this semaphore from here on, the value of which is known.
  void choose(uint16_t semaphore, int value) { semaphore_ = semaphore, value_ = value; }
  void come_to(int value) {
    if (value != value_) add(value - value_, 0);
  }
  // Others, which are not undone, make room for it.
  void add_undone(int amount) {
    while (amount != 0) {
      const int part = std::clamp(amount, -kLargest, kLargest);
      come_to(part < 0 ? kLargest : 0);
      add(part, SEM_UNDO);
      amount -= part;
    }
  }
  void add_impossible() {
    come_to(0);
    add(-1, 0);
  }
  std::span<const sembuf> operations() const { return std::span(operations_).first(count_); }

  using Operations = std::array<sembuf, kMostOperations>;
  Operations& memory() { return operations_; }

 private:
  void add(int amount, int flags) {
    operations_.at(count_++) = {semaphore_, static_cast<short>(amount),
                                static_cast<short>(IPC_NOWAIT | flags)};
    value_ += amount;
  }

  Operations operations_{};
  size_t count_ = 0;
  uint16_t semaphore_ = 0;
  int value_ = 0;
};

// ---- Asking for it ------------------------------------------------------------------------------

// What one process would undo of one set.
class Asking {
 public:
  Asking(const Host& host, int id, std::vector<uint16_t> values)
      : host_(host), id_(id), values_(std::move(values)) {}

  static constexpr size_t kCallsAtOnce = 32, kScratch = kCallsAtOnce * sizeof(Changes::Operations);

  // By semaphore.
  std::map<uint16_t, int> adjustments() {
    std::vector<Found> found;
    for (const uint16_t semaphore : changed()) found.push_back({semaphore});
    for (int digit = 3; digit >= 0; --digit) find_digit(found, digit);
    std::map<uint16_t, int> all;
    for (const Found& one : found) all[one.semaphore] = one.least;
    return all;
  }

 private:
  // Four hexadecimal digits lead from `least` to the adjustment.
  struct Found {
    uint16_t semaphore;
    int least = kLeast;
  };

  void find_digit(std::vector<Found>& found, int digit) {
    constexpr int kDigits = 16;
    std::vector<Changes> questions;
    for (const Found& one : found)
      for (int value = 1; value < kDigits; ++value)
        questions.push_back(is_at_least(one.semaphore, one.least + (value << 4 * digit)));
    const std::vector<bool> answers = lead_out(questions);
    for (size_t i = 0; i < answers.size(); ++i)
      if (answers[i]) found[i / (kDigits - 1)].least += 1 << 4 * digit;
  }

  Changes is_at_least(uint16_t semaphore, int adjustment) const {
    Changes changes;
    changes.choose(semaphore, values_[semaphore]);
    changes.add_undone(adjustment - (kLargest + 1));
    changes.add_impossible();
    return changes;
  }

  // Those of which something would be undone: some at once are asked for first.
  std::vector<uint16_t> changed() {
    constexpr uint16_t kAtOnce = 4;
    const auto size = static_cast<uint16_t>(values_.size());
    std::vector<std::pair<uint16_t, uint16_t>> ranges;
    for (uint16_t from = 0; from < size; from += std::min<uint16_t>(kAtOnce, size - from))
      ranges.emplace_back(from, std::min<uint16_t>(kAtOnce, size - from));
    std::vector<std::pair<uint16_t, uint16_t>> single;
    for (const auto& [from, count] : changed(ranges))
      for (uint16_t i = 0; i < count; ++i) single.emplace_back(from + i, uint16_t{1});
    std::vector<uint16_t> semaphores;
    for (const auto& [semaphore, count] : changed(single)) semaphores.push_back(semaphore);
    return semaphores;
  }
  std::vector<std::pair<uint16_t, uint16_t>> changed(
      const std::vector<std::pair<uint16_t, uint16_t>>& ranges) {
    std::vector<Changes> questions;
    for (const auto& [from, count] : ranges) questions.push_back(is_any_changed(from, count));
    const std::vector<bool> answers = lead_out(questions);
    std::vector<std::pair<uint16_t, uint16_t>> changed;
    for (size_t i = 0; i < ranges.size(); ++i)
      if (answers[i]) changed.push_back(ranges[i]);
    return changed;
  }
  // From end to end of the range, which only an adjustment of 0 allows.
  Changes is_any_changed(uint16_t from, uint16_t count) const {
    Changes changes;
    for (uint16_t i = 0; i < count; ++i) {
      changes.choose(from + i, values_[from + i]);
      changes.add_undone(-kLargest);
      changes.add_undone(kLargest - kLeast);
    }
    changes.add_impossible();
    return changes;
  }

  std::vector<bool> lead_out(std::vector<Changes>& questions) {
    std::vector<bool> answers;
    for (size_t from = 0; from < questions.size(); from += kCallsAtOnce)
      lead_out(std::span(questions).subspan(from, std::min(kCallsAtOnce, questions.size() - from)),
               answers);
    return answers;
  }
  void lead_out(std::span<Changes> questions, std::vector<bool>& answers) {
    std::vector<int32_t> results(questions.size());
    Inquiry inquiry(*host_.task, host_.place, kScratch, questions.size());
    for (size_t i = 0; i < questions.size(); ++i) {
      const SystemCallArguments arguments{static_cast<uint64_t>(id_),
                                          inquiry.address_for(questions[i].memory()),
                                          questions[i].operations().size()};
      if (!inquiry.may_call(SYS_semop, arguments)) throw_refused("a seccomp filter forbids to ask");
      inquiry.call(SYS_semop, arguments, &results[i]);
    }
    inquiry.begin();
    inquiry.finish();
    for (const int32_t result : results) {
      // It has no right to change them, any more at least.
      if (result == -EACCES) return answers.resize(answers.size() + questions.size());
      if (result != -ERANGE && result != -EAGAIN) throw_refused(::strerror(-result));
      answers.push_back(result == -ERANGE);
    }
  }

  [[noreturn]] void throw_refused(const std::string& why) const {
    throw Error("it cannot be asked", why);
  }

  const Host& host_;
  int id_;
  std::vector<uint16_t> values_;
};

// Of one set, of all who are in its namespace.
class UndoCapture {
 public:
  UndoCapture(CaptureContext& context, const pb::SemaphoreSet& set)
      : context_(context),
        id_(set.permissions().id()),
        what_(ipc_name(IpcKind::kSemaphores, id_) + ", SEM_UNDO") {}

  void add(const FrozenProcess& frozen, pb::Process& process) {
    const size_t room = Inquiry::room_for(Asking::kScratch, Asking::kCallsAtOnce);
    const Host host = host_in(frozen, context_, room, UnderSeccomp::kAsFiltersAllow);
    if (!host.task) return lacks(frozen, {}, host.why_not);
    for (const FrozenTask& task : frozen.tasks)
      if (!share_semaphore_undo(host.task->tid(), task.tid))
        lacks(frozen, task.tid, "it has not that of its process (CLONE_SYSVSEM)");
    asked_.push_back({frozen, process, host, {}});
  }

  // It is by the values that is asked, and others may change these.
  void ask(std::vector<uint16_t> values, const std::function<std::vector<uint16_t>()>& read) {
    constexpr int kTries = 5;
    for (int i = 0; i < kTries; ++i) {
      std::erase_if(asked_, [&](Asked& one) { return !is_told(one, values); });
      auto now = read();
      if (now == values) return write();
      values = std::move(now);
    }
    throw Error(what_, "others change the values all the time");
  }

 private:
  struct Asked {
    std::reference_wrapper<const FrozenProcess> frozen;
    std::reference_wrapper<pb::Process> process;
    Host host;
    std::map<uint16_t, int> adjustments;
  };

  void lacks(const FrozenProcess& frozen, Tid tid, std::string_view why) {
    context_.lacks(frozen.pid, tid, what_, why);
  }

  bool is_told(Asked& one, const std::vector<uint16_t>& values) {
    try {
      one.adjustments = Asking(one.host, id_, values).adjustments();
      return true;
    } catch (const Error& error) {
      lacks(one.frozen, {}, error.what());
      return false;
    }
  }

  void write() {
    Identities lists(Identities::Kind::kSemaphoreUndo);
    std::set<uint32_t> known;
    for (const Asked& one : asked_) {
      if (one.adjustments.empty()) continue;
      if (!known.insert(lists.of(one.host.task->tid())).second)
        lacks(one.frozen, {}, "it has it in common with another one (CLONE_SYSVSEM)");
      else
        for (const auto& [semaphore, adjustment] : one.adjustments) {
          pb::SemaphoreUndo& undo = *one.process.get().add_semaphore_undo();
          undo.set_set(id_);
          undo.set_semaphore(semaphore);
          undo.set_adjustment(adjustment);
        }
    }
  }

  CaptureContext& context_;
  int id_;
  std::string what_;
  std::vector<Asked> asked_;
};

}  // namespace

void capture_semaphore_undo(CaptureContext& context, const InOneSpace& processes,
                            const pb::SemaphoreSet& set,
                            const std::function<std::vector<uint16_t>()>& read) {
  UndoCapture capture(context, set);
  for (const auto& [frozen, process] : processes) capture.add(*frozen, *process);
  capture.ask(values_of(set), read);
}

// ---- Restoring ----------------------------------------------------------------------------------
namespace {

// What is undone of the set: of the last process first.
void for_each_undo(const Snapshot& snapshot, uint64_t space, const pb::SemaphoreSet& set,
                   const auto& work) {
  for (const pb::Process& process : snapshot.processes() | std::views::reverse)
    for (const pb::SemaphoreUndo& undo : process.semaphore_undo())
      if (ipc_of(process) == space && undo.set() == set.permissions().id() &&
          undo.semaphore() < static_cast<uint32_t>(set.values_size()))
        work(undo);
}

int undone(int value, const pb::SemaphoreUndo& undo) {
  return static_cast<int>(std::clamp<int64_t>(int64_t{value} + undo.adjustment(), 0, kLargest));
}

int value_in(const pb::SemaphoreSet& set, const pb::SemaphoreUndo& undo) {
  return static_cast<int>(set.values(static_cast<int>(undo.semaphore())));
}

// What its semaphore comes to when all is undone that comes before `first`.
int value_before(const Snapshot& snapshot, uint64_t space, const pb::SemaphoreSet& set,
                 const pb::SemaphoreUndo& first) {
  int value = value_in(set, first);
  bool is_over = false;
  for_each_undo(snapshot, space, set, [&](const pb::SemaphoreUndo& undo) {
    is_over |= &undo == &first;
    if (!is_over && undo.semaphore() == first.semaphore()) value = undone(value, undo);
  });
  return value;
}

const pb::SemaphoreSet* find_set(const pb::SystemV& objects, int32_t id) {
  const auto found = std::ranges::find(objects.semaphores(), id,
                                       [](const auto& set) { return set.permissions().id(); });
  return found == objects.semaphores().end() ? nullptr : &*found;
}

void expect_possible(const pb::SemaphoreSet& set, const pb::SemaphoreUndo& undo) {
  const bool is_there = undo.semaphore() < static_cast<uint32_t>(set.values_size());
  if (!is_there || value_in(set, undo) > kLargest || undo.adjustment() < kLeast ||
      undo.adjustment() > kLargest)
    throw Error(fmt::format("cannot have {} of {} of {} undone", undo.adjustment(),
                            undo.semaphore(), ipc_name(IpcKind::kSemaphores, undo.set())),
                "no system has such a number: the image is made up");
}

// From the value that it has to the one that it had: one that was made has it already, as if
// nothing would be undone.
void add_change(const pb::SemaphoreUndo& undo, int from, int to, Seed& seed) {
  Changes changes;
  changes.choose(static_cast<uint16_t>(undo.semaphore()), from);
  changes.add_undone(-undo.adjustment());
  changes.come_to(to);
  const SystemCallArguments arguments{static_cast<uint64_t>(undo.set()),
                                      seed.put(std::as_bytes(changes.operations())),
                                      changes.operations().size()};
  seed.add_if_allowed(
      fmt::format("change {} with SEM_UNDO, as it had", ipc_name(IpcKind::kSemaphores, undo.set())),
      SYS_semop, arguments);
}

void restore_undo(RestoreContext& context, const pb::Process& process, Seed& seed) {
  const auto& spaces = context.plan.system_v.spaces;
  const auto space = spaces.find(ipc_of(process));
  if (space == spaces.end()) return;
  const SystemVObjects& planned = space->second;
  for (const pb::SemaphoreUndo& undo : process.semaphore_undo()) {
    const pb::SemaphoreSet* set = find_set(*planned.objects, undo.set());
    const std::pair key{IpcKind::kSemaphores, undo.set()};
    if (!set || planned.changed.contains(key)) continue;
    expect_possible(*set, undo);
    const bool is_made = planned.made.contains(key);
    const int value =
        is_made ? value_in(*set, undo) : value_before(context.snapshot, space->first, *set, undo);
    add_change(undo, is_made ? value : undone(value, undo), value, seed);
  }
  context.perform(seed, process.pid());
}

}  // namespace

const ProcessRestorer kSemaphoreUndoRestorer{"changes of System V semaphores", restore_undo};

bool is_undone_in_part(const Snapshot& snapshot, uint64_t space, const pb::SemaphoreSet& set) {
  bool any = false;
  for_each_undo(snapshot, space, set, [&](const auto&) { any = true; });
  return any;
}

std::vector<uint16_t> values_when_undone(const Snapshot& snapshot, uint64_t space,
                                         const pb::SemaphoreSet& set) {
  std::vector<uint16_t> values = values_of(set);
  for_each_undo(snapshot, space, set, [&](const pb::SemaphoreUndo& undo) {
    uint16_t& value = values[undo.semaphore()];
    value = static_cast<uint16_t>(undone(value, undo));
  });
  return values;
}

}  // namespace snapgdb
