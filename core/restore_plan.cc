#include "core/restore_plan.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/host.h"
#include "core/resource/memory.h"
#include "core/resource/sharing.h"

namespace snapgdb {
namespace {

// ---- Births -------------------------------------------------------------------------------------

int32_t own_session(const pb::Process& process, const Snapshot& snapshot) {
  const pb::Process* leader = snapshot.process(process.session());
  return leader ? own_number(*leader) : 0;  // 0: that of whoever restores
}

bool leads_session(const pb::Process& process) {
  return process.session() == process.pid();
}

// A child is born into the session that its parent is in at that moment; so those that are in an
// older one come before the parent's setsid(2).
class Births {
 public:
  Births(const Snapshot& snapshot, RestorePlan& plan) : snapshot_(snapshot), plan_(plan) {
    for (const pb::Process& process : snapshot.processes())
      if (&process != &snapshot.root()) children_[process.parent()].push_back(&process);
  }

  void plan() {
    bear(snapshot_.root(), 0, 0);
    for (const auto& process : snapshot_.processes()) join_group(process, true);
    for (const auto& process : snapshot_.processes()) join_group(process, false);
    for (const auto& process : snapshot_.processes())
      if (process.state() == "Z") add(Birth::Step::kExit, process, 0);
  }

 private:
  void add(Birth::Step step, const pb::Process& process, int32_t other) {
    plan_.births.push_back({.step = step, .pid = own_number(process), .other = other});
  }

  // `session`: own number of the leader of that it is born into, 0: the one outside.
  void bear(const pb::Process& process, int32_t parent, int32_t session) {
    add(Birth::Step::kClone, process, parent);
    plan_.births.back().shares_memory = shares_with_parent(snapshot_, process, kMemory);
    plan_.births.back().shares_descriptors = shares_with_parent(snapshot_, process, kDescriptors);
    const int32_t number = own_number(process), wanted = own_session(process, snapshot_);
    const auto& children = children_[process.pid()];
    const auto is_older = [&](const pb::Process* child) {
      return wanted != session && !leads_session(*child) &&
             own_session(*child, snapshot_) != wanted;
    };
    for (const pb::Process* child : children)
      if (is_older(child)) bear(*child, number, session);
    if (leads_session(process)) {
      add(Birth::Step::kSetsid, process, 0);
    } else if (wanted != session) {
      plan_.notes.push_back(fmt::format(
          "process {} joins the session of its parent: that of {} has no leader in the snapshot",
          process.pid(), process.session()));
    }
    for (const pb::Process* child : children)
      if (!is_older(child)) bear(*child, number, leads_session(process) ? number : session);
  }

  // Leaders first, so that there is a group to join.
  void join_group(const pb::Process& process, bool leaders) {
    if (leads_session(process) || (process.group() == process.pid()) != leaders) return;
    const pb::Process* leader = snapshot_.process(process.group());
    if (leader) {
      add(Birth::Step::kSetpgid, process, own_number(*leader));
    } else if (process.group() != snapshot_.root().group()) {
      plan_.notes.push_back(
          fmt::format("process {} stays in the group of its parent: group {} has no leader in the "
                      "snapshot",
                      process.pid(), process.group()));
    }
  }

  const Snapshot& snapshot_;
  RestorePlan& plan_;
  std::map<int32_t, std::vector<const pb::Process*>> children_;
};

// ---- Files --------------------------------------------------------------------------------------

bool is_kernel_part(const pb::Vma& vma) {
  return vma.name().starts_with("[v");
}

// Memory that has a file, but one that only those have who use it.
bool is_object(const pb::Vma& vma) {
  return vma.file() == 0 && !is_anonymous(vma) && (vma.shared() || vma.deleted());
}

// What the program saw is what is there now, or else the image has it.
bool is_unchanged(const pb::FileRecord& file) {
  struct stat status {};
  return !file.deleted() && ::stat(file.path().c_str(), &status) == 0 &&
         static_cast<uint64_t>(status.st_size) == file.size() &&
         status.st_mtim.tv_sec * 1'000'000'000 + status.st_mtim.tv_nsec == file.mtime_ns();
}

std::string words_for(const pb::Vma& vma) {
  return fmt::format("mapping of {} at {:#x}", printable(vma.name()), vma.start());
}

class Files {
 public:
  Files(const Snapshot& snapshot, const RestoreOptions& options, RestorePlan& plan)
      : snapshot_(snapshot), options_(options), plan_(plan) {}

  void plan() {
    for (const pb::Process& process : snapshot_.processes()) {
      for (const pb::Descriptor& descriptor : process.descriptors())
        add_descriptor(process, descriptor);
      for (const pb::Vma& vma : process.mappings()) add_mapping(process, vma);
    }
    constexpr int kAboveStandard = 16;
    plan_.file_base = std::max(highest_ + 1, kAboveStandard);
  }

 private:
  void object(const pb::Process& process, std::string resource, std::string why,
              std::string help = "") {
    plan_.obstacles.push_back(
        {process.pid(), std::move(resource), std::move(why), std::move(help)});
  }

  void add_descriptor(const pb::Process& process, const pb::Descriptor& descriptor) {
    highest_ = std::max(highest_, descriptor.number());
    const auto [known, is_new] =
        plan_.by_description.try_emplace(descriptor.description(), plan_.files.size());
    if (!is_new) {
      prefer(plan_.files[known->second], descriptor);
      return;
    }
    PlannedFile file{.descriptor = &descriptor, .what = printable(descriptor.target())};
    const auto resource = fmt::format("descriptor {}, {}", descriptor.number(), file.what);
    for (const pb::FileLock& lock : descriptor.locks())
      if (lock.kind() == "LEASE")
        plan_.notes.push_back(fmt::format("process {}: {} has a lease, which is not taken again",
                                          process.pid(), resource));
    const DescriptorRestorer* restorer = restorer_of(descriptor);
    const std::string kind(kind_name(descriptor));
    if (standard_stream(snapshot_, descriptor)) {
      file.how = PlannedFile::How::kStandard;
    } else if (options_.without.contains(kind)) {
      file.how = PlannedFile::How::kLeftOut;
      plan_.notes.push_back(fmt::format("process {}: {} is left out", process.pid(), resource));
    } else if (!restorer) {
      object(process, resource, "that kind cannot be restored yet", "--without " + kind);
    } else if (auto why = restorer->obstacle(snapshot_, descriptor); !why.empty()) {
      object(process, resource, std::move(why), "--without " + kind);
    } else {
      file.how = PlannedFile::How::kOpened;
      if (const std::string note = restorer->note(descriptor); !note.empty())
        plan_.notes.push_back(fmt::format("process {}: {}: {}", process.pid(), resource, note));
    }
    plan_.files.push_back(std::move(file));
  }

  // The one with the lowest number tells best whether it is a standard stream; a pipe's content is
  // at one descriptor only.
  static void prefer(PlannedFile& file, const pb::Descriptor& other) {
    const bool has_content = other.has_pipe() && !other.pipe().content().empty();
    if (has_content) file.descriptor = &other;
  }

  void add_mapping(const pb::Process& process, const pb::Vma& vma) {
    if (vma.protection_key())
      object(process, words_for(vma), "memory protection keys cannot be restored yet");
    if (is_kernel_part(vma) || (vma.file() == 0 && !is_object(vma))) return;
    const auto [known, is_new] =
        plan_.by_mapping.try_emplace(RestorePlan::key_of(vma), plan_.files.size());
    const bool writable = vma.shared() && has_flag(vma, "mw");
    if (!is_new) {
      plan_.files[known->second].writable |= writable;
      return;
    }
    PlannedFile file{.mapping = &vma, .writable = writable, .what = printable(vma.name())};
    struct stat status {};
    if (is_object(vma) && !vma.deleted() && ::stat(vma.name().c_str(), &status) == 0 &&
        S_ISREG(status.st_mode)) {
      file.how = PlannedFile::How::kOpened;
    } else if (is_object(vma)) {
      file.how = PlannedFile::How::kSharedMemory;
      if (const uint32_t id = vma.nameless(); id && !why_not_in_image(snapshot_, id).empty())
        object(process, words_for(vma), why_not_in_image(snapshot_, id));
    } else if (const pb::FileRecord& record = *snapshot_.file(vma.file()); is_unchanged(record)) {
      file.how = PlannedFile::How::kOpened;
    } else if (record.embedded()) {
      file.how = PlannedFile::How::kFromImage;
      if (!record.deleted())
        plan_.notes.push_back(
            fmt::format("{} has changed: its content comes from the image", file.what));
    } else {
      object(process, words_for(vma),
             "the file has changed since, and its content is not in the image");
    }
    plan_.files.push_back(std::move(file));
  }

  const Snapshot& snapshot_;
  const RestoreOptions& options_;
  RestorePlan& plan_;
  int highest_ = 0;
};

// ---- What is in the way -------------------------------------------------------------------------

// A range that no process of the tree uses, and no stack will grow into. Low addresses: programs
// and libraries are far above.
uint64_t free_range(const Snapshot& snapshot, uint64_t size) {
  constexpr uint64_t kLowest = 0x100000, kMargin = 0x10000;
  std::vector<std::pair<uint64_t, uint64_t>> used;
  for (const pb::Process& process : snapshot.processes())
    for (const pb::Vma& vma : process.mappings()) used.emplace_back(vma.start(), vma.end());
  std::ranges::sort(used);
  uint64_t at = kLowest;
  for (const auto& [start, end] : used) {
    if (start >= at + size + kMargin) break;
    at = std::max(at, page_up(end) + kMargin);
  }
  return at;
}

void check_kernel_parts(const Snapshot& snapshot, RestorePlan& plan) {
  const auto& parts = Seed::kernel_parts();
  for (const pb::Process& process : snapshot.processes())
    for (const pb::Vma& vma : process.mappings()) {
      if (!is_kernel_part(vma) || vma.name() == "[vsyscall]") continue;
      const auto part = std::ranges::find(parts, vma.name(), &Seed::KernelPart::name);
      bool same = part != parts.end() && part->size == vma.end() - vma.start();
      if (same && vma.name() == "[vdso]") {
        std::vector<std::byte> then(part->size);
        const auto now = std::span(reinterpret_cast<const std::byte*>(part->start), part->size);
        same = snapshot.read_memory(process, vma.start(), then) == then.size() &&
               std::ranges::equal(then, now);
      }
      if (!same)
        plan.obstacles.push_back({process.pid(), std::string(vma.name()),
                                  "this kernel's is another one than that of the snapshot (" +
                                      snapshot.record().host().os_release() + ")",
                                  "restore it on a machine with that kernel"});
    }
}

void check_processor(const Snapshot& snapshot, RestorePlan& plan) {
  const uint64_t then = snapshot.record().host().xcr0(), now = describe_host().xcr0;
  if (then & ~now)
    plan.obstacles.push_back(
        {0, "processor",
         fmt::format("it lacks register state that the other one had (XCR0 {:#x}, not {:#x})", now,
                     then),
         "restore it on a machine with such a processor"});
}

// What the kernel keeps to itself comes from this kernel; anything else would read as zeros.
void check_memory(const Snapshot& snapshot, const pb::Process& process,
                  const RestoreOptions& options, RestorePlan& plan) {
  std::map<std::string, uint64_t> lost;
  const Extents& extents = snapshot.extents(process);
  for (const pb::Vma& vma : process.mappings()) {
    if (has_flag(vma, "io") || has_flag(vma, "pf"))
      if (!is_kernel_part(vma))
        plan.obstacles.push_back({process.pid(), words_for(vma), "memory of a device", ""});
    if (is_kernel_part(vma) || (vma.shared() && vma.file() != 0)) continue;
    for (const Extent& extent : extents.overlapping(vma.start(), vma.end()))
      if (extent.source == pb::SOURCE_MISSING && Extents::kept_by(extent) != KeptBy::kKernel)
        lost[extents.reason(extent)] +=
            std::min(extent.end(), vma.end()) - std::max(extent.start, vma.start());
  }
  for (const auto& [why, bytes] : lost) {
    const auto what = fmt::format("{} bytes of memory", bytes);
    if (options.without.contains("memory"))
      plan.notes.push_back(
          fmt::format("process {}: {} reads as zeros: {}", process.pid(), what, why));
    else
      plan.obstacles.push_back(
          {process.pid(), what, "it is not in the image: " + why,
           "capture with --all-memory, or --without memory: it reads as zeros"});
  }
}

void check_process(const Snapshot& snapshot, const pb::Process& process, RestorePlan& plan) {
  const auto object = [&](std::string resource, std::string why, std::string help = "") {
    plan.obstacles.push_back({process.pid(), std::move(resource), std::move(why), std::move(help)});
  };
  for (const pb::Thread& thread : process.threads()) {
    if (thread.credentials().seccomp_mode()) object("seccomp", "filters cannot be restored yet");
    const pb::Credentials& wanted = thread.credentials();
    if (const uint32_t own = ::geteuid();
        own != 0 && (wanted.ruid() != own || wanted.euid() != own || wanted.suid() != own))
      object("credentials", fmt::format("it belongs to user {}", wanted.ruid()),
             "restore it as root");
    if (!wanted.lsm_label().empty())
      plan.notes.push_back(fmt::format("task {}: its security label {} is not set again",
                                       thread.tid(), printable(wanted.lsm_label())));
    if (thread.xstate().empty() || thread.registers().empty())
      object("registers",
             "they are not in the image" +
                 std::string(thread.state() == "D" ? ": it waits in vfork(2)" : ""),
             thread.state() == "D" ? "capture it when its child has exec'd or exited" : "");
  }
  if (leads_session(process) && process.terminal() != 0)
    plan.notes.push_back(
        fmt::format("process {}: its session has no controlling terminal now", process.pid()));
  if (process.state() != "Z" && process.threads().empty())
    object("threads", "they are not in the image");
  const bool alive = process.state() != "Z";
  struct stat status {};
  for (const std::string& directory : {process.root_directory(), process.working_directory()})
    if (alive && !directory.empty() &&
        (::stat(directory.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)))
      object("directory " + printable(directory), "it is not there any more", "make it again");
  if (alive && has_other_root(process) && ::geteuid() != 0)
    object("root directory", "only root may change it", "restore it as root");
  for (const pb::Process& other : snapshot.processes())
    if (other.pid() < process.pid() && process.state() != "Z" && other.state() != "Z") {
      if (other.address_space() == process.address_space() &&
          is_first_to_share(snapshot, process, kMemory))
        object("address space",
               fmt::format("it is shared with process {}, which is not its parent", other.pid()));
      else if (other.descriptor_table() == process.descriptor_table() &&
               is_first_to_share(snapshot, process, kDescriptors))
        plan.notes.push_back(fmt::format("processes {} and {} get descriptor tables of their own",
                                         other.pid(), process.pid()));
    }
}

}  // namespace

int RestorePlan::file_of(const pb::Descriptor& descriptor) const {
  const auto found = by_description.find(descriptor.description());
  return found == by_description.end() ? -1 : file_base + static_cast<int>(found->second);
}

int RestorePlan::file_of(const pb::Vma& mapping) const {
  const auto found = by_mapping.find(key_of(mapping));
  return found == by_mapping.end() ? -1 : file_base + static_cast<int>(found->second);
}

RestorePlan::MappedFile RestorePlan::key_of(const pb::Vma& mapping) {
  return {makedev(mapping.device_major(), mapping.device_minor()), mapping.inode(), mapping.name()};
}

std::string_view kind_name(const pb::Descriptor& descriptor) {
  const auto* field = pb::Descriptor::descriptor()->FindFieldByNumber(descriptor.kind_case());
  return field ? std::string_view(field->name()) : "unknown";
}

RestorePlan plan_restore(const Snapshot& snapshot, const RestoreOptions& options) {
  RestorePlan plan;
  plan.seed_base = free_range(snapshot, Seed::kSize);
  Births(snapshot, plan).plan();
  Files(snapshot, options, plan).plan();
  check_kernel_parts(snapshot, plan);
  check_processor(snapshot, plan);
  check_huge_pages(snapshot, plan);
  for (const pb::Process& process : snapshot.processes()) {
    check_process(snapshot, process, plan);
    if (process.address_space() && is_first_to_share(snapshot, process, kMemory))
      check_memory(snapshot, process, options, plan);
  }
  for (const pb::Missing& missing : snapshot.record().missing())
    plan.notes.push_back(fmt::format("process {}: {} is not in the image: {}", missing.pid(),
                                     printable(missing.resource()), printable(missing.reason())));
  return plan;
}

std::string_view words_for(PlannedFile::How how) {
  constexpr std::string_view kWords[] = {"cannot be had",     "opened",
                                         "from the image",    "shared memory",
                                         "a standard stream", "left out"};
  return kWords[static_cast<size_t>(how)];
}

std::string describe(const RestorePlan& plan, const Snapshot& snapshot) {
  std::string out;
  for (const auto& [step, pid, other, memory, descriptors] : plan.births) switch (step) {
      case Birth::Step::kClone:
        out += fmt::format("process {} is born", pid) +
               (other ? fmt::format(", a child of {}", other) : "") +
               (memory ? ", with whom it shares its memory" : "") +
               (descriptors ? ", with whom it shares its descriptors" : "") + "\n";
        break;
      case Birth::Step::kSetsid:
        out += fmt::format("process {} begins a session\n", pid);
        break;
      case Birth::Step::kSetpgid:
        out += fmt::format("process {} joins group {}\n", pid, other);
        break;
      case Birth::Step::kExit:
        out += fmt::format("process {} exits, and stays a zombie\n", pid);
        break;
    }
  for (const PlannedFile& file : plan.files)
    out += fmt::format("{}: {}\n", file.what, words_for(file.how));
  for (const pb::Process& process : snapshot.processes())
    out += fmt::format("process {}: {} mappings, {} threads, {} descriptors\n", own_number(process),
                       process.mappings_size(), process.threads_size(), process.descriptors_size());
  return out;
}

}  // namespace snapgdb
