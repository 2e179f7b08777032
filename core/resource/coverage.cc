#include "core/resource/coverage.h"

namespace snapgdb {
namespace {

using enum Coverage::Of;

constexpr Coverage kCoverage[] = {
    // ---- Processes ------------------------------------------------------------------------------
    {kProcess, "identity",
     "numbers in every pid namespace, parent, group, session, state, exit status of zombies, "
     "times, terminal",
     "all numbers, parents, groups, sessions, zombies",
     "times begin anew; the first process of a pid namespace is an obstacle",
     "the same numbers: root, or --isolated"},
    {kProcess, "program",
     "executable, arguments, environment, working and root directory, auxiliary vector, layout, "
     "umask, personality, OOM adjustment, core dump filter",
     "all of it", "sharing of the working directory and the umask (CLONE_FS)",
     "another root directory: root"},
    {kProcess, "signals", "what is blocked, ignored, caught, pending", "all of it", "", ""},
    {kProcess, "pending signals", "queued signals with their siginfo, in order", "all of it", "",
     ""},
    {kProcess, "signal actions and timers",
     "signal actions in full, interval timers, POSIX timers with the time left, child subreaper, "
     "transparent huge pages, MDWE, permitted AMX",
     "all of it", "sharing of signal actions (CLONE_SIGHAND)",
     "a process that may be asked: not under a foreign seccomp filter"},
    {kProcess, "limits", "all resource limits", "all of them", "", "to raise a hard limit: root"},
    {kProcess, "namespaces", "which it is in, and its cgroups",
     "pid, mount, user, time as far as a restore needs them", "namespaces that the tree owns", ""},
    {kProcess, "descriptors",
     "numbers, flags, positions, which are one description, receivers of signals, locks",
     "all of it, shared as it was", "leases", "pidfd_getfd(2), Linux 5.6"},
    {kProcess, "memory map",
     "mappings with their attributes and what they hold: private, shared, files, memfds, System V, "
     "guard pages, huge pages, what a userfaultfd has not delivered",
     "all of it at its addresses, shared and copy-on-write as it was",
     "memory protection keys are an obstacle; memfd_secret is never read",
     "shared memory that a process under seccomp has not mapped in: CAP_CHECKPOINT_RESTORE"},
    // ---- Threads --------------------------------------------------------------------------------
    {kThread, "identity", "number, name, state, times, processor, where in the kernel it sleeps",
     "number, name", "", ""},
    {kThread, "alternate stack",
     "alternate stack, address of its number, death signal, TSC mode, machine check policy, rseq, "
     "robust futexes",
     "all of it", "", ""},
    {kThread, "registers",
     "all, to the last vector bit (XSAVE with AVX-512, AMX), the interrupted system call",
     "all of them; a system call goes on as after SIGCONT",
     "parents in vfork(2) are an obstacle; relative timeouts begin anew", ""},
    {kThread, "signals", "blocked and pending ones with siginfo, that which is being delivered",
     "all of it", "", ""},
    {kThread, "credentials",
     "users, groups, capabilities, securebits, no_new_privs, security label", "all but the label",
     "the security label is not set again, which is said", "other users: root"},
    {kThread, "scheduling", "policy, nice, priorities, processors allowed, timer slack",
     "all of it; what rights forbid is said", "", ""},
    // ---- Descriptors ----------------------------------------------------------------------------
    {kDescriptor, "pipe", "capacity, what is queued, which end; of FIFOs too",
     "all of it; a FIFO's content if it is empty then", "removed FIFOs", ""},
    {kDescriptor, "memfd", "name, seals, content", "all of it", "", ""},
    {kDescriptor, "file", "path, position, flags, locks; the content of removed ones",
     "opened again by its path; removed ones with their content",
     "files that are named in other directories only",
     "removed files: root, or an open descriptor"},
    {kDescriptor, "directory", "path, position", "opened again", "removed directories", ""},
    {kDescriptor, "device", "path, numbers", "opened again; isolated: a device of the host's", "",
     ""},
    {kDescriptor, "socket", "domain, type, addresses, state, peer, sizes of the queues", "",
     "an obstacle; isolated: a lost connection", "pidfd_getfd(2)"},
    {kDescriptor, "timerfd", "clock, time left, interval, ticks", "", "an obstacle", ""},
    {kDescriptor, "signalfd", "mask", "", "an obstacle", ""},
    {kDescriptor, "inotify", "watches", "", "an obstacle", ""},
    {kDescriptor, "pidfd", "of which process", "", "an obstacle", ""},
    {kDescriptor, "eventfd", "count, semaphore", "all of it", "", ""},
    {kDescriptor, "epoll", "targets with events and data",
     "all of it; what is ready is told once more", "", ""},
    {kDescriptor, "other", "the kernel's own words (fdinfo)", "", "an obstacle, by name", ""},
};

}  // namespace

std::span<const Coverage> coverage() {
  return kCoverage;
}

}  // namespace snapgdb
