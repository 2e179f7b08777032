#include "core/restore_births.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <set>

#include "core/resource/sharing.h"

namespace snapgdb {
namespace {

using Step = Birth::Step;

constexpr int32_t kOutside = 0;  // the session, or the group, of whoever restores

bool leads_session(const pb::Process& process) {
  return process.session() == process.pid();
}

// The session of whoever restores stands for the one that the root was born into. A root that leads
// its own left that one, once; a child of another session is from before that, unless the root
// takes in orphans: then it may be of any session that is gone.
int32_t session_outside(const Snapshot& snapshot) {
  const pb::Process& root = snapshot.root();
  if (!leads_session(root)) return root.session();
  const bool adopts = root.child_subreaper() || own_number(root) == 1;
  for (const pb::Process& process : snapshot.processes())
    if (!adopts && process.parent() == root.pid() && !snapshot.process(process.session()))
      return process.session();
  return kOutside;
}

// A child is born into the session that its parent is in at that moment; so those that are in an
// older one come before the parent's setsid(2). One that is in neither was an orphan: whoever bore
// it is gone, and it was adopted by its parent, the nearest subreaper (prctl(2)).
class Births {
 public:
  Births(const Snapshot& snapshot, RestorePlan& plan)
      : snapshot_(snapshot), plan_(plan), session_outside_(session_outside(snapshot)) {
    for (const pb::Process& process : snapshot.processes())
      if (&process != &snapshot.root()) children_[process.parent()].push_back(&process);
  }

  void plan() {
    bear(snapshot_.root(), 0, kOutside);
    while (!orphans_.empty())
      if (!adopt_next()) give_up_on_next();
    for (const auto& process : snapshot_.processes()) join_group(process, true);
    for (const auto& [group, members] : groups_without_leader()) make_group(group, members);
    for (const auto& process : snapshot_.processes()) join_group(process, false);
    for (const auto& process : snapshot_.processes())
      if (is_zombie(process)) add(Step::kExit, tree_number(snapshot_, process));
  }

 private:
  using Processes = std::vector<const pb::Process*>;

  void add(Step step, int32_t pid, int32_t other = 0) {
    plan_.births.push_back({.step = step, .pid = pid, .other = other});
  }

  using Numbers = google::protobuf::RepeatedField<int32_t>;

  // Those of a leader that is gone, from the pid namespace of `process` up to that of the tree;
  // empty where one does not know it. `numbers`: of all of them, outermost first.
  std::vector<int32_t> numbers_of(int32_t leader, const pb::Process& process,
                                  const Numbers& numbers) const {
    if (process.ns_pids_size() <= 1) return {leader};
    const int above = std::max(snapshot_.root().ns_pids_size(), 1) - 1;
    if (numbers.size() != process.ns_pids_size() || numbers.size() <= above) return {};
    std::vector<int32_t> known(numbers.rbegin(), numbers.rend() - above);
    return std::ranges::find(known, 0) == known.end() ? known : std::vector<int32_t>{};
  }

  // Number of its leader, also of one that is gone; where that is known outside of the process's
  // pid namespace only, that one, negated.
  int32_t number_of(int32_t leader, int32_t outside, const pb::Process& process,
                    const Numbers& numbers) const {
    if (const pb::Process* one = snapshot_.process(leader)) return tree_number(snapshot_, *one);
    if (leader == outside) return kOutside;
    const auto known = numbers_of(leader, process, numbers);
    return known.empty() ? -leader : known.back();
  }
  int32_t session_of(const pb::Process& process) const {
    return number_of(process.session(), session_outside_, process, process.ns_sessions());
  }
  int32_t group_of(const pb::Process& process) const {
    return number_of(process.group(), snapshot_.root().group(), process, process.ns_groups());
  }
  bool is_alive(int32_t session) const { return born_.contains(session); }

  void bear(const pb::Process& process, int32_t mother, int32_t session) {
    const int32_t number = tree_number(snapshot_, process), wanted = session_of(process);
    add(Step::kClone, number, mother);
    born_.insert(number);
    const bool is_orphan =
        mother != 0 && mother != tree_number(snapshot_, *snapshot_.process(process.parent()));
    Birth& birth = plan_.births.back();
    for (const SharedKind& kind : kSharedKinds)
      if (!is_orphan && shares_with_parent(snapshot_, process, kind.what))
        birth.shares |= kind.clone_flag;
    Processes& children = children_[process.pid()];
    const auto is_older = [&](const pb::Process* child) {
      return wanted != session && was_born_into(*child, session);
    };
    const auto younger = std::ranges::stable_partition(children, is_older);
    for (const pb::Process* child : std::ranges::subrange(children.begin(), younger.begin()))
      bear(*child, number, session);
    if (leads_session(process)) session = wanted, add(Step::kSetsid, number);
    if (may_lead_at_once(process)) add(Step::kSetpgid, number, number), leading_.insert(number);
    for (const pb::Process* child : younger) {
      if (leads_session(*child) || session_of(*child) == session)
        bear(*child, number, session);
      else
        orphans_.push_back(child);
    }
  }

  // One that leads a session may have begun it after it had children itself.
  bool was_born_into(const pb::Process& process, int32_t session) {
    if (!leads_session(process)) return session_of(process) == session;
    return std::ranges::any_of(children_[process.pid()], [&](const pb::Process* child) {
      return was_born_into(*child, session);
    });
  }

  bool descends_from(const pb::Process& process, const pb::Process& other) const {
    const pb::Process* above = &process;
    while (above && above != &other) above = snapshot_.process(above->parent());
    return above != nullptr;
  }

  // Of the orphans that are still to come, one whose session there is, or can be begun anew.
  bool adopt_next() {
    for (const pb::Process* orphan : orphans_) {
      const pb::Process& parent = *snapshot_.process(orphan->parent());
      const int32_t session = session_of(*orphan);
      const pb::Process* leader = snapshot_.process(orphan->session());
      const bool can_be_lent = leader && is_alive(session) && descends_from(*leader, parent);
      const bool can_begin = !leader && session != kOutside && !begun_.contains(session);
      if (!can_be_lent && !can_begin) continue;
      const int32_t mother = can_be_lent ? next_stranger_++ : session;
      adopt_all(parent, session, mother, can_be_lent ? session : tree_number(snapshot_, parent));
      return true;
    }
    return false;
  }

  // Those of this session that `parent` adopted, by one who goes again. `bearer`: hers.
  void adopt_all(const pb::Process& parent, int32_t session, int32_t mother, int32_t bearer) {
    add(Step::kAdoptOrphans, tree_number(snapshot_, parent), 1);
    add(Step::kTemporary, mother, bearer);
    const auto is_among = [&](const pb::Process* orphan) {
      return orphan->parent() == parent.pid() && session_of(*orphan) == session;
    };
    Processes adopted;
    std::ranges::copy_if(orphans_, std::back_inserter(adopted), is_among);
    std::erase_if(orphans_, is_among);
    const pb::Process& first = *adopted.front();
    if (mother == session) {
      plan_.births.back().numbers = numbers_of(first.session(), first, first.ns_sessions());
      add(Step::kSetsid, mother), begun_.insert(session);
      if (session < 0)  // it gets any number in their pid namespace
        plan_.notes.push_back(fmt::format(
            "process {}: its session, whose leader is gone, has another number than it had",
            first.pid()));
    }
    for (const pb::Process* orphan : adopted) bear(*orphan, mother, session);
    add(Step::kEnd, mother, bearer);
    add(Step::kAdoptOrphans, tree_number(snapshot_, parent), 0);
  }

  void give_up_on_next() {
    const pb::Process& orphan = *orphans_.front();
    orphans_.erase(orphans_.begin());
    plan_.notes.push_back(
        fmt::format("process {} joins the session of its parent: its own, {}, can be had by "
                    "nobody who is above it",
                    orphan.pid(), orphan.session()));
    const pb::Process& parent = *snapshot_.process(orphan.parent());
    bear(orphan, tree_number(snapshot_, parent), session_of(parent));
  }

  // Where some below it are in a pid namespace in which it has no number: they are born into its
  // group then. Not if others have stayed in a group from outside, which cannot be joined again.
  bool may_lead_at_once(const pb::Process& process) const {
    if (process.group() != process.pid() || leads_session(process)) return false;
    bool is_unknown = false;
    for (const pb::Process& other : snapshot_.processes()) {
      if (&other == &process || !descends_from(other, process)) continue;
      if (group_of(other) == kOutside) return false;
      is_unknown |= number_for(snapshot_, process, other) == 0;
    }
    return is_unknown;
  }

  // Leaders first, so that there is a group to join. Who has the group of a session whose leader is
  // gone was born into it.
  void join_group(const pb::Process& process, bool leaders) {
    if (leads_session(process) || (process.group() == process.pid()) != leaders) return;
    if (leading_.contains(tree_number(snapshot_, process))) return;
    if (const pb::Process* leader = snapshot_.process(process.group()))
      add(Step::kSetpgid, tree_number(snapshot_, process), tree_number(snapshot_, *leader));
  }

  std::map<int32_t, Processes> groups_without_leader() const {
    std::map<int32_t, Processes> groups;
    for (const pb::Process& process : snapshot_.processes()) {
      const int32_t group = group_of(process);
      if (group != kOutside && !snapshot_.process(process.group()) &&
          process.group() != process.session())
        groups[group].push_back(&process);
    }
    return groups;
  }

  void make_group(int32_t group, const Processes& members) {
    if (group < 0) {
      for (const pb::Process* member : members)
        plan_.notes.push_back(
            fmt::format("process {} stays in the group of its parent: that of {} has no leader, "
                        "and another number inside",
                        member->pid(), member->group()));
      return;
    }
    // Where the innermost one is, the leader has a number for all of them.
    const pb::Process& innermost = **std::ranges::max_element(
        members, {}, [](const pb::Process* member) { return member->ns_pids_size(); });
    const auto numbers_for = [&](const pb::Process& member) {
      return numbers_of(member.group(), member, member.ns_groups());
    };
    const int32_t bearer = tree_number(snapshot_, innermost);
    add(Step::kTemporary, group, bearer);
    plan_.births.back().numbers = numbers_for(innermost);
    add(Step::kSetpgid, group, group);
    for (const pb::Process* member : members) {
      add(Step::kSetpgid, tree_number(snapshot_, *member), group);
      plan_.births.back().numbers = numbers_for(*member);
    }
    add(Step::kEnd, group, bearer);
  }

  const Snapshot& snapshot_;
  RestorePlan& plan_;
  const int32_t session_outside_;
  std::map<int32_t, Processes> children_;
  Processes orphans_;
  std::set<int32_t> born_, begun_, leading_;
  int32_t next_stranger_ = std::numeric_limits<int32_t>::min();  // whose number is of no account
};

}  // namespace

void plan_births(const Snapshot& snapshot, RestorePlan& plan) {
  Births(snapshot, plan).plan();
}

static std::string words_for_shared(uint64_t flags) {
  std::string words;
  for (const SharedKind& kind : kSharedKinds)
    if (flags & kind.clone_flag) words += fmt::format(", with whom it shares its {}", kind.name);
  return words;
}

std::string describe(const Birth& birth) {
  const int32_t pid = birth.pid, other = birth.other;
  const std::string who = pid < 0 ? "somebody" : fmt::format("process {}", pid);
  switch (birth.step) {
    case Step::kClone:
      return who + " is born" + (other > 0 ? fmt::format(", a child of {}", other) : "") +
             (other < 0 ? ", an orphan soon" : "") + words_for_shared(birth.shares);
    case Step::kSetsid:
      return who + " begins a session";
    case Step::kSetpgid:
      return who + fmt::format(" joins group {}", other);
    case Step::kExit:
      return who + " exits, and stays a zombie";
    case Step::kTemporary:
      return who + fmt::format(" is born, a child of {}, for a moment", other);
    case Step::kEnd:
      return who + " ends";
    case Step::kAdoptOrphans:
      return who + (other ? " adopts orphans" : " adopts no more orphans than it did");
  }
  return who;
}

}  // namespace snapgdb
