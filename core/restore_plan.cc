#include "core/restore_plan.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/resource/cgroups.h"
#include "core/resource/io_uring.h"
#include "core/resource/memory.h"
#include "core/resource/message_queue.h"
#include "core/resource/mounts.h"
#include "core/resource/namespaces.h"
#include "core/resource/processor.h"
#include "core/resource/sharing.h"
#include "core/resource/spaces.h"
#include "core/resource/system_v.h"
#include "core/resource/vdso.h"
#include "core/restore_births.h"

namespace snapgdb {
namespace {

// ---- Files --------------------------------------------------------------------------------------

// Memory that has a file, but one that only those have who use it.
bool is_object(const pb::Vma& vma) {
  return vma.file() == 0 && !is_anonymous(vma) && (vma.shared() || vma.deleted());
}

bool is_there(const pb::NamespaceState* mounts, const pb::FileRecord& file) {
  struct stat status {};
  return stat_for_tree(mounts, file.path(), status) == 0;
}

// What the program saw is what is there now, or else the image has it.
bool is_unchanged(const pb::NamespaceState* mounts, const pb::FileRecord& file) {
  struct stat status {};
  return !file.deleted() && stat_for_tree(mounts, file.path(), status) == 0 &&
         static_cast<uint64_t>(status.st_size) == file.size() &&
         status.st_mtim.tv_sec * 1'000'000'000 + status.st_mtim.tv_nsec == file.mtime_ns();
}

bool has_descriptor_of(const Snapshot& snapshot, const pb::Vma& vma) {
  bool found = false;
  for (const pb::Process& process : snapshot.processes())
    for_each_descriptor(process, [&](const pb::Descriptor& descriptor) {
      found |= descriptor.inode() == vma.inode() && descriptor.target() == vma.name();
    });
  return found;
}

std::string why_of_no_kind(const pb::Descriptor& descriptor) {
  const pb::OtherDescriptor& other = descriptor.other();
  return other.name().empty() ? "that kind cannot be restored yet"
                              : fmt::format("a {}: {}", other.name(), other.why_lost());
}

class Files {
 public:
  Files(const Snapshot& snapshot, const RestoreOptions& options, RestorePlan& plan)
      : snapshot_(snapshot), options_(options), plan_(plan) {}

  void plan() {
    find_standard_streams();
    for (const pb::Process& process : snapshot_.processes()) {
      for_each_descriptor(
          process, [&](const pb::Descriptor& descriptor) { add_descriptor(process, descriptor); });
      for (const pb::Vma& vma : process.mappings()) add_mapping(process, vma);
    }
    constexpr int kAboveStandard = 16;
    plan_.file_base = std::max(highest_ + 1, kAboveStandard);
  }

 private:
  // Of descriptors that share one, the lowest tells.
  void find_standard_streams() {
    for (const pb::Process& process : snapshot_.processes())
      for (const pb::Descriptor& descriptor : process.descriptors()) {
        if (!standard_stream(snapshot_, descriptor)) continue;
        const pb::Descriptor*& known = standard_[descriptor.description()];
        if (!known || descriptor.number() < known->number()) known = &descriptor;
      }
  }

  void object(const pb::Process& process, std::string resource, std::string why,
              std::string help = "") {
    plan_.obstacles.push_back(
        {process.pid(), std::move(resource), std::move(why), std::move(help)});
  }

  // Isolated, what cannot be had is replaced.
  PlannedFile::How lacks(const pb::Process& process, const std::string& resource,
                         const std::string& help, const std::string& why) {
    if (!options_.isolated) {
      object(process, resource, why, "--isolated, or " + help);
      return PlannedFile::How::kNone;
    }
    plan_.notes.push_back(fmt::format("process {}: {} fails as a lost connection would: {}",
                                      process.pid(), resource, why));
    return PlannedFile::How::kLeftOut;
  }

  void add_descriptor(const pb::Process& process, const pb::Descriptor& descriptor) {
    highest_ = std::max(highest_, descriptor.number());
    for (const pb::Epoll::Target& target : descriptor.epoll().targets())
      highest_ = std::max(highest_, target.fd());  // which is used for a moment
    const auto [known, is_new] =
        plan_.by_description.try_emplace(descriptor.description(), plan_.files.size());
    if (!is_new) {
      prefer(plan_.files[known->second], descriptor);
      return;
    }
    PlannedFile file{
        .process = &process, .descriptor = &descriptor, .what = printable(descriptor.target())};
    const auto resource = descriptor.number() == kInFlight
                              ? fmt::format("a descriptor in a message, {}", file.what)
                              : fmt::format("descriptor {}, {}", descriptor.number(), file.what);
    const DescriptorRestorer* restorer = restorer_of(descriptor);
    const std::string kind(kind_name(descriptor));
    if (const auto standard = standard_.find(descriptor.description());
        standard != standard_.end()) {
      file.how = PlannedFile::How::kStandard;
      file.descriptor = standard->second;
    } else if (options_.without.contains(kind)) {
      file.how = PlannedFile::How::kLeftOut;
      plan_.notes.push_back(fmt::format("process {}: {} is left out", process.pid(), resource));
    } else if (!restorer) {
      file.how = lacks(process, resource, "--without " + kind, why_of_no_kind(descriptor));
    } else if (options_.isolated && writes_to_hardware(descriptor)) {
      file.how = lacks(process, resource, "", "what it writes would be outside of the sandbox");
    } else if (const auto lost = why_not_connected(descriptor); !lost.empty()) {
      file.how = lacks(process, resource,
                       "--tcp-close, or --tcp-established, best if it was captured so", lost);
    } else if (const auto why = obstacle_of(*restorer, descriptor); !why.empty()) {
      file.how = lacks(process, resource, "--without " + kind, why);
    } else {
      file.how = PlannedFile::How::kOpened;
      if (const std::string note = restorer->note(descriptor); !note.empty())
        plan_.notes.push_back(fmt::format("process {}: {}: {}", process.pid(), resource, note));
    }
    plan_.files.push_back(std::move(file));
  }

  // Of what is to be closed, nothing need be known.
  std::string obstacle_of(const DescriptorRestorer& restorer,
                          const pb::Descriptor& descriptor) const {
    const bool closes = options_.connections == RestorePlan::Connections::kClosed;
    if (closes && is_outside_connection(snapshot_, descriptor)) return "";
    return restorer.obstacle(snapshot_, descriptor);
  }

  // Why a connection to outside is in the way, or lost if isolated. Only who may repair
  // connections (tcp(7), TCP_REPAIR) makes one in the network that there is.
  std::string why_not_connected(const pb::Descriptor& descriptor) const {
    using Connections = RestorePlan::Connections;
    if (!is_tcp_connection(descriptor)) return "";
    if (!is_outside_connection(snapshot_, descriptor))
      return options_.isolated || plan_.network || ::geteuid() == 0 ||
                     is_in_space(plan_, descriptor.socket().network_namespace())
                 ? ""
                 : "only root makes a connection again";
    if (options_.connections == Connections::kClosed) return "";
    if (options_.isolated) return "its other end is out of reach";
    if (options_.connections == Connections::kRefused)
      return "it is a connection to outside of the tree";
    return ::geteuid() == 0 ? "" : "only root makes a connection again";
  }

  // What is queued is at one descriptor only.
  static void prefer(PlannedFile& file, const pb::Descriptor& other) {
    const bool has_content = (other.has_pipe() && !other.pipe().content().empty()) ||
                             (other.has_socket() && !other.socket().queue().empty());
    if (has_content && file.how != PlannedFile::How::kStandard) file.descriptor = &other;
  }

  void add_mapping(const pb::Process& process, const pb::Vma& vma) {
    if (vma.protection_key())
      object(process, describe(vma), "memory protection keys cannot be restored yet");
    if (is_io_uring(vma) && !has_descriptor_of(snapshot_, vma))
      object(process, describe(vma), "no descriptor of it is left");
    if (is_kernel_part(vma) || (vma.file() == 0 && !is_object(vma)) ||
        is_attached(plan_, process, vma))
      return;
    const auto [known, is_new] =
        plan_.by_mapping.try_emplace(RestorePlan::key_of(vma), plan_.files.size());
    const bool writable = vma.shared() && has_flag(vma, "mw");
    if (!is_new) {
      plan_.files[known->second].writable |= writable;
      return;
    }
    PlannedFile file{
        .process = &process, .mapping = &vma, .writable = writable, .what = printable(vma.name())};
    const pb::NamespaceState* mounts = mounts_at(process, vma, file);
    struct stat status {};
    if (is_object(vma) && !vma.deleted() && stat_for_tree(mounts, vma.name(), status) == 0 &&
        S_ISREG(status.st_mode)) {
      file.how = PlannedFile::How::kOpened;
    } else if (is_object(vma)) {
      file.how = PlannedFile::How::kSharedMemory;
      if (const uint32_t id = vma.nameless(); id && !why_not_in_image(snapshot_, id).empty())
        object(process, describe(vma), why_not_in_image(snapshot_, id));
    } else if (const pb::FileRecord& record = *snapshot_.file(vma.file());
               is_unchanged(mounts, record)) {
      file.how = PlannedFile::How::kOpened;
    } else if (const auto why = why_not_in_image(snapshot_, vma.file()); why.empty()) {
      file.how = PlannedFile::How::kFromImage;
      if (!record.deleted()) {
        plan_.notes.push_back(fmt::format("{} is {} here: its content comes from the image",
                                          file.what,
                                          is_there(mounts, record) ? "another one" : "not"));
        if (options_.isolated) file.replacement = replacements_++;
      }
    } else {
      object(process, describe(vma), "the file has changed since, and " + why);
    }
    plan_.files.push_back(std::move(file));
  }

  // Where the mapped file is looked for. It is opened before there are mounts below those of the
  // first process: as what that one sees.
  const pb::NamespaceState* mounts_at(const pb::Process& process, const pb::Vma& vma,
                                      PlannedFile& file) {
    const pb::NamespaceState* mounts = mounts_of(snapshot_, process);
    if (plan_.mount_spaces.empty() || !is_below(snapshot_, mounts)) return plan_.mounts;
    if (const auto path = path_above(plan_, *mounts, vma.name()))
      file.path = *path;
    else if (!vma.deleted())
      object(process, describe(vma),
             "it is in a file system that only a mount namespace below has");
    return mounts;
  }

  const Snapshot& snapshot_;
  const RestoreOptions& options_;
  RestorePlan& plan_;
  int highest_ = 0;
  std::map<uint32_t, const pb::Descriptor*> standard_;  // by description
  size_t replacements_ = 0;
};

// ---- Places ----------------------------------------------------------------------------------

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
  return {device_of(mapping), mapping.inode(), mapping.name()};
}

std::string_view kind_name(const pb::Descriptor& descriptor) {
  const auto* field = pb::Descriptor::descriptor()->FindFieldByNumber(descriptor.kind_case());
  return field ? std::string_view(field->name()) : "unknown";
}

std::vector<std::string> kinds_to_go_without() {
  std::vector<std::string> kinds{"memory", "processor", "mounts", "network", "system-v", "cgroups"};
  const auto* of =
      pb::Descriptor::descriptor()->FindFieldByNumber(pb::Descriptor::kFile)->containing_oneof();
  for (int i = 0; i < of->field_count(); ++i) kinds.push_back(of->field(i)->name());
  return kinds;
}

RestorePlan plan_restore(const Snapshot& snapshot, const RestoreOptions& options) {
  RestorePlan plan;
  plan.isolated = options.isolated;
  plan.lazy = options.lazy;
  plan.connections = options.connections;
  plan_namespaces(snapshot, options.without, plan);
  plan_system_v(snapshot, options.without.contains("system-v"), plan);
  plan_message_queues(snapshot, options.without.contains("message_queue"), plan);
  constexpr uint64_t kOfSeeds = Seed::kSize + Seed::kParkingSize;
  plan.seed_base = free_range(snapshot, kOfSeeds + room_to_attach(snapshot, plan));
  plan.system_v.room = plan.seed_base + kOfSeeds;
  plan_births(snapshot, plan);
  Files(snapshot, options, plan).plan();
  plan_kernel_parts(snapshot, plan);
  check_huge_pages(snapshot, plan);
  check_unix_names(snapshot, plan);
  check_tree(snapshot, options, plan);
  plan_cgroups(snapshot, options.without.contains("cgroups"), plan);
  return plan;
}

std::string describe(const pb::Vma& vma) {
  return fmt::format("mapping of {} at {:#x}", printable(vma.name()), vma.start());
}

std::string_view words_for(PlannedFile::How how) {
  constexpr std::string_view kWords[] = {"cannot be had",     "opened",
                                         "from the image",    "shared memory",
                                         "a standard stream", "left out"};
  return kWords[static_cast<size_t>(how)];
}

std::string describe(const RestorePlan& plan, const Snapshot& snapshot) {
  std::string out;
  for (const Birth& birth : plan.births) out += describe(birth) + "\n";
  for (const PlannedFile& file : plan.files)
    out += fmt::format("{}: {}\n", file.what, words_for(file.how));
  out += describe(plan.system_v);
  out += describe_namespaces(plan);
  for (const pb::Process& process : snapshot.processes())
    out += fmt::format("process {}: {} mappings, {} threads, {} descriptors\n",
                       tree_number(snapshot, process), process.mappings_size(),
                       process.threads_size(), process.descriptors_size());
  return out;
}

std::string terminal_settings_for(const RestorePlan& plan) {
  for (const PlannedFile& file : plan.files)
    if (file.how == PlannedFile::How::kStandard && file.descriptor->device_node().has_state())
      return file.descriptor->device_node().state().settings();
  return "";
}

}  // namespace snapgdb
