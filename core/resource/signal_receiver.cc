// Who is sent a signal when a descriptor is ready, or its lease broken: F_SETOWN, F_SETSIG and
// O_ASYNC of fcntl(2).

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
  if (receiver.number() == 0) return;  // it was nobody
  const f_owner_ex owner{static_cast<__pid_type>(receiver.kind()),
                         number_of(context.snapshot, receiver, process)};
  if (owner.pid == 0 || seed.try_call(SYS_fcntl, {number, F_SETOWN_EX, seed.put_value(owner)}) != 0)
    return context.notes.push_back(fmt::format(
        "process {}: the signals of descriptor {}, {}, go to nobody: {} is not there",
        process.pid(), descriptor.number(), printable(descriptor.target()), receiver.number()));
  seed.add("choose a descriptor's signal", SYS_fcntl, {number, F_SETSIG, receiver.signal()});
  seed.add("have a descriptor send signals", SYS_fcntl, {number, F_SETFL, descriptor.flags()});
  seed.perform();
}

}  // namespace

void capture_receiver(CaptureContext& context, const OpenDescriptor& open, pb::Descriptor& out) {
  const bool has_lease = std::ranges::count(out.locks(), "LEASE", &pb::FileLock::kind) > 0;
  if (!(out.flags() & O_ASYNC) && !has_lease) return;
  f_owner_ex owner{};
  const Fd same = duplicate_descriptor(open.process.a_task(), open.number);
  const int signal = same.valid() ? ::fcntl(same.get(), F_GETSIG) : -1;
  if (signal < 0 || ::fcntl(same.get(), F_GETOWN_EX, &owner) != 0)
    return context.lacks(open.process.pid, {}, "receiver of the signals of " + open.target,
                         "pidfd_getfd(2) is refused");
  out.mutable_receiver()->set_kind(static_cast<uint32_t>(owner.type));
  out.mutable_receiver()->set_number(owner.pid);
  out.mutable_receiver()->set_signal(static_cast<uint32_t>(signal));
}

void restore_receivers(RestoreContext& context, const pb::Process& process, Seed& seed) {
  for (const pb::Descriptor& descriptor : process.descriptors()) {
    const auto file = context.plan.by_description.find(descriptor.description());
    if (descriptor.has_receiver() && file != context.plan.by_description.end() &&
        context.plan.files[file->second].how == PlannedFile::How::kOpened)
      restore(context, process, descriptor, seed);
  }
}

}  // namespace snapgdb
