// Who is sent a signal when a descriptor is ready (O_ASYNC) or has urgent data, or its lease is
// broken: F_SETOWN and F_SETSIG of fcntl(2).

#include <fcntl.h>
#include <sys/syscall.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/task.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

// The number by which `viewer` knows a task of the snapshot; 0: it is not of the tree, or out of
// her sight.
int32_t number_of(const Snapshot& snapshot, const pb::SignalReceiver& receiver,
                  const pb::Process& viewer) {
  for (const pb::Process& process : snapshot.processes()) {
    if (receiver.kind() != F_OWNER_TID && process.pid() == receiver.number())
      return number_for(snapshot, process, viewer);
    for (const pb::Thread& thread : process.threads())
      if (receiver.kind() == F_OWNER_TID && thread.tid() == receiver.number())
        return number_for(snapshot, thread, process, viewer);
  }
  return 0;
}

void restore(RestoreContext& context, const pb::Process& process, const pb::Descriptor& descriptor,
             Seed& seed) {
  const pb::SignalReceiver& receiver = descriptor.receiver();
  const auto number = static_cast<uint64_t>(descriptor.number());
  const f_owner_ex owner{static_cast<__pid_type>(receiver.kind()),
                         number_of(context.snapshot, receiver, process)};
  if (receiver.number() != 0 &&
      (owner.pid == 0 ||
       seed.try_call(SYS_fcntl, {number, F_SETOWN_EX, seed.put_value(owner)}) != 0))
    return context.notes.push_back(fmt::format(
        "process {}: the signals of descriptor {}, {}, go to nobody: {} is not there",
        process.pid(), descriptor.number(), printable(descriptor.target()), receiver.number()));
  seed.add("choose a descriptor's signal", SYS_fcntl, {number, F_SETSIG, receiver.signal()});
  if (descriptor.flags() & O_ASYNC)
    seed.add_if_allowed(fmt::format("have descriptor {}, {}, send signals", descriptor.number(),
                                    printable(descriptor.target())),
                        SYS_fcntl, {number, F_SETFL, descriptor.flags()});
  context.perform(seed, process.pid());
}

}  // namespace

// Of urgent data (SIGURG) an owner is told without O_ASYNC. Of files and directories, which are
// many, nobody is told of anything but leases.
void capture_receiver(CaptureContext& context, const OpenDescriptor& open, pb::Descriptor& out) {
  const bool is_told =
      out.flags() & O_ASYNC || std::ranges::count(out.locks(), "LEASE", &pb::FileLock::kind) > 0;
  const bool is_file = S_ISREG(open.status.st_mode) || S_ISDIR(open.status.st_mode);
  if (open.is_name_only() || (is_file && !is_told)) return;
  f_owner_ex owner{};
  const Fd same = duplicate_descriptor(open.process.a_task(), open.number);
  const int signal = same.valid() ? ::fcntl(same.get(), F_GETSIG) : -1;
  if (signal < 0 || ::fcntl(same.get(), F_GETOWN_EX, &owner) != 0) {
    if (is_told)
      context.lacks(open.process.pid, {}, "receiver of the signals of " + open.target,
                    "pidfd_getfd(2) is refused");
    return;
  }
  if (!is_told && owner.pid == 0 && signal == 0) return;
  out.mutable_receiver()->set_kind(static_cast<uint32_t>(owner.type));
  out.mutable_receiver()->set_number(owner.pid);
  out.mutable_receiver()->set_signal(static_cast<uint32_t>(signal));
}

void restore_receivers(RestoreContext& context, const pb::Process& process, Seed& seed) {
  for (const pb::Descriptor& descriptor : process.in_flight())
    if (descriptor.receiver().number() != 0)
      context.notes.push_back(
          fmt::format("process {}: the signals of {}, {}, go to nobody: nobody has it to say so",
                      process.pid(), called(descriptor), printable(descriptor.target())));
  for (const pb::Descriptor& descriptor : process.descriptors()) {
    const auto file = context.plan.by_description.find(descriptor.description());
    if (descriptor.has_receiver() && file != context.plan.by_description.end() &&
        context.plan.files[file->second].how == PlannedFile::How::kOpened)
      restore(context, process, descriptor, seed);
  }
}

}  // namespace snapgdb
