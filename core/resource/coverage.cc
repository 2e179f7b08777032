#include "core/resource/coverage.h"

namespace snapgdb {
namespace {

using enum Coverage::Of;

constexpr Coverage kCoverage[] = {
    // ---- The tree -------------------------------------------------------------------------------
    {kTree, "System V shared memory",
     "number, key, owner, mode, size, content, whether it was removed; attachments as mappings",
     "all of it with its number and attached where it was, also in parts; one that is still there "
     "is used as it is",
     "its creator, times and who attached it last; another's number or key is an obstacle",
     "the number: root, or --isolated"},
    {kTree, "System V semaphores",
     "number, key, owner, mode, values, who changed each last; what is undone as a process ends "
     "(SEM_UNDO)",
     "number, key, owner, mode, values, and what is undone; those still there are used as they are",
     "who changed them last, creator, times; what threads, or processes together, have undone for "
     "themselves (CLONE_SYSVSEM)",
     "the number: root, or --isolated; sets that the tree has not used yet, in an ipc namespace "
     "that it shares, are not known to be its own"},
    {kTree, "System V message queues",
     "number, key, owner, mode, what it may hold, messages with their types, in order",
     "all of it; one that is still there is used as it is",
     "who sent and received last, creator, times",
     "CONFIG_CHECKPOINT_RESTORE; the number: root, or --isolated; queues that the tree has not "
     "used yet, as semaphores"},
    {kTree, "cgroups",
     "of each process, and of threads where they are others; settings of those that are the tree's "
     "own: below that of its first process, and that one if nobody else is in it",
     "processes and threads are put back; own ones that are gone are made again, with their "
     "settings; isolated: left alone",
     "those of others that are gone, and what rights forbid, which is said; what was counted",
     "CONFIG_CGROUPS, hierarchies mounted; to write there: root, mostly"},
    // ---- Processes ------------------------------------------------------------------------------
    {kProcess, "identity",
     "numbers in every pid namespace, parent, group, session, state, exit status of zombies, "
     "times, terminal",
     "all numbers, parents, groups, sessions, also those whose leader is gone, zombies, number 1",
     "times begin anew", "the same numbers: root, or --isolated"},
    {kProcess, "program",
     "executable, arguments, environment, working and root directory, auxiliary vector, layout, "
     "umask, personality, OOM adjustment, core dump filter, whether it may be dumped",
     "all of it; shared with the parent as it was (CLONE_FS)", "sharing with others, which is said",
     "another root directory: root"},
    {kProcess, "signals", "what is blocked, ignored, caught, pending", "all of it", "", ""},
    {kProcess, "pending signals", "queued signals with their siginfo, in order", "all of it", "",
     ""},
    {kProcess, "signal actions and timers",
     "signal actions in full, interval timers, POSIX timers with the time left, child subreaper, "
     "transparent huge pages, merging of memory, MDWE, permitted AMX, what it is registered for "
     "with "
     "membarrier(2)",
     "all of it; actions shared with the parent as they were (CLONE_SIGHAND)",
     "sharing with others, and how often a timer expired while its signal waited, which is said",
     "a process that may be asked: no shadow stack, no seccomp filter that forbids it"},
    {kProcess, "seccomp filters", "each once, however many threads are under it", "see threads", "",
     "root"},
    {kProcess, "limits", "all resource limits", "all of them", "", "to raise a hard limit: root"},
    {kProcess, "namespaces",
     "which it is in, and its cgroups; maps of users, host names, clocks; mounts with their peers, "
     "what "
     "is in file systems in memory; links, addresses, routes, rules, neighbours, also those that "
     "it "
     "answers for, settings and filters of networks",
     "those of the first process, with all that; mounts of others as they are found; those below, "
     "which other processes are in; links: veth, bridge, dummy, loopback",
     "file systems that are mounted nowhere else or in several mount namespaces below only, "
     "overlays of what only the tree had in memory, mounts of a sandbox of snapgdb's, and other "
     "kinds of links are an obstacle; queueing disciplines (tc(8)), and isolated, attributes that "
     "only root may set (trusted.*), which is said",
     "an ordinary user: one user, and only in a user namespace of the tree's own"},
    {kProcess, "descriptors",
     "numbers, flags, positions, which are one description, receivers of signals, locks",
     "all of it, shared as it was", "", "pidfd_getfd(2), Linux 5.6"},
    {kProcess, "memory map",
     "mappings with their attributes and what they hold: private, shared, files, memfds, System V, "
     "guard pages, huge pages, what a userfaultfd has not delivered",
     "all of it at its addresses, shared and copy-on-write as it was",
     "memory protection keys are an obstacle; memfd_secret is never read; mlockall(MCL_FUTURE) "
     "where "
     "nothing is locked yet",
     "shared memory that a process under seccomp has not mapped in: CAP_CHECKPOINT_RESTORE"},
    {kProcess, "asynchronous I/O", "contexts of io_setup(2) with the events in them",
     "all of it, at its addresses", "what was under way, which is said",
     "no more processors than there were, for small rings"},
    // ---- Threads --------------------------------------------------------------------------------
    {kThread, "identity", "number, name, state, times, processor, where in the kernel it sleeps",
     "number, name", "", ""},
    {kThread, "alternate stack",
     "alternate stack, address of its number, death signal, TSC mode, machine check policy, rseq, "
     "robust futexes; where it gets memory from (set_mempolicy(2)); keyrings, described",
     "all but the keyrings",
     "only the kernel has what is in keys: those that are lost are told of; where single mappings "
     "get memory from (mbind(2))",
     "keyrings: no seccomp filter that forbids to ask"},
    {kThread, "registers",
     "all, to the last vector bit (XSAVE with AVX-512, AMX), the interrupted system call",
     "all of them; a system call goes on as after SIGCONT",
     "parents in vfork(2) are an obstacle; relative timeouts begin anew", ""},
    {kThread, "signals", "blocked and pending ones with siginfo, that which is being delivered",
     "all of it", "", ""},
    {kThread, "credentials",
     "users, groups, login user, capabilities, securebits, no_new_privs, security label",
     "all but the label", "the security label is not set again, which is said",
     "other users: root"},
    {kThread, "seccomp filters", "filters, which have them in common, system call dispatch",
     "all of it, in force from the first instruction on",
     "filters that hand calls to a supervisor are an obstacle", "root, for capture and restore"},
    {kThread, "scheduling", "policy, nice, priorities, processors allowed, timer slack",
     "all of it; what rights forbid is said", "",
     "SCHED_DEADLINE, real time and negative nice values: root, and not --isolated"},
    // ---- Descriptors ----------------------------------------------------------------------------
    {kDescriptor, "pipe",
     "capacity, what is queued, its packets as such (O_DIRECT), which end; of FIFOs too",
     "all of it; a FIFO's content if it is empty then; removed ones, too", "",
     "removed ones: a place to make them again"},
    {kDescriptor, "memfd", "name, seals, content", "all of it", "", ""},
    {kDescriptor, "message queue",
     "POSIX: name, owner, mode, what it may hold, how many messages; who is told of one "
     "(mq_notify(3)); the messages with their priorities, with --kill",
     "all of it; one that is still there is used as it is",
     "the messages without --kill, which is said: the kernel shows none without giving it away; "
     "the value that goes with the signal of mq_notify(3), and telling by a thread (SIGEV_THREAD)",
     "another owner: root"},
    {kDescriptor, "file",
     "path, position, flags, locks; content and extended attributes of removed ones; whether a "
     "mount hides it",
     "opened again by its path, or below the mount that hides it; removed ones with their content",
     "files that have lost their name, and of whose others a short search finds none; those that a "
     "mount hides in a mount namespace below; what a trigger of pressure (PSI) was to tell, which "
     "is said",
     "removed files: root, or an open descriptor; hidden ones: root"},
    {kDescriptor, "directory", "path, position", "opened again; removed ones, too", "",
     "removed ones: a place to make them again"},
    {kDescriptor, "device",
     "path, numbers; of pseudoterminals settings, window size, modes, session, foreground group, "
     "whether they are hung up; with --kill what is queued, also ends of files, stopped output, an "
     "unread byte of packet mode that tells of that",
     "opened again; pseudoterminals whose master is in the tree, others become that of restore",
     "what is queued in a terminal without --kill, and other bytes of packet mode, which is said; "
     "a "
     "pending ^V, which the kernel does not show; consoles that are somebody's screen; what a "
     "driver "
     "kept for the program, which is said; isolated, disks and memory that it could write to",
     ""},
    {kDescriptor, "socket",
     "domain, type, addresses, options, what is queued with senders, credentials and descriptors "
     "in flight; TCP: both queues, sequence numbers, windows, options; groups that were joined",
     "unix; TCP and UDP over IPv4 and IPv6, raw, netlink, packet; connections within the tree, to "
     "outside with --tcp-established or --tcp-close",
     "peers outside of the tree, unless said otherwise; data sent to a unix connection nobody has "
     "accepted; TCP connections from outside that wait to be accepted; packet rings, TLS, MPTCP, "
     "AF_VSOCK and others; filters of bpf(2), by name; keys of TCP_MD5SIG and TCP-AO",
     "pidfd_getfd(2); TCP: CAP_NET_ADMIN, or --isolated with empty send queues"},
    {kDescriptor, "timerfd", "clock, flags, time left, interval, ticks", "all of it",
     "alarm clocks without CAP_WAKE_ALARM become ordinary ones, which is said", ""},
    {kDescriptor, "signalfd", "mask", "all of it", "", ""},
    {kDescriptor, "inotify", "watches with their paths, whether events wait",
     "watches, by the same numbers; the program is told that events were lost (IN_Q_OVERFLOW), if "
     "some were",
     "events that nobody had read yet, which is said",
     "paths of watches: root, otherwise those that a short search finds"},
    {kDescriptor, "fanotify",
     "class and flags; marks of files, mounts and file systems with what they ignore; whether "
     "events wait",
     "groups with their marks", "events that nobody had read yet, which is said",
     "CAP_SYS_ADMIN, but for groups that tell of files by handles; isolated, it fails as a lost "
     "connection"},
    {kDescriptor, "pidfd", "of which process or thread", "all of the tree's own, also of zombies",
     "one of a process outside is one of a process that has ended", "Linux 6.9 for threads"},
    {kDescriptor, "eventfd", "count, semaphore", "all of it", "", ""},
    {kDescriptor, "epoll",
     "targets with events and data, also those open under other numbers by now, in other processes "
     "or in messages only; what was told by EPOLLONESHOT; whether there is something to tell",
     "all of it; what was told of changes (EPOLLET) is not told again, unless there was more to "
     "tell",
     "EPOLLONESHOT that has told, where nothing is ready: it tells of errors and hang-ups again, "
     "which is said",
     "EPOLLWAKEUP: CAP_BLOCK_SUSPEND"},
    {kDescriptor, "io_uring",
     "size of its rings, what is in them; how many requests and completions there were; how many "
     "files, buffers and credentials are registered, whether an eventfd is",
     "idle ones, mapped where they were, with completions that nobody has taken",
     "with requests in flight, things registered, a polling thread, or one submitter only: an "
     "obstacle, by name; flags that the kernel does not show, which is said",
     "io_uring_setup(2), a kernel that maps rings where one wants them (not Linux 6.18)"},
    {kDescriptor, "secret memory", "that it is", "",
     "only who has it mapped can read it (memfd_secret(2)): an obstacle, by name", ""},
    {kDescriptor, "other",
     "userfaultfd, perf events, bpf, landlock, KVM, …: what it is, and the kernel's own words of "
     "it "
     "(fdinfo)",
     "", "an obstacle, by name", ""},
};

}  // namespace

std::span<const Coverage> coverage() {
  return kCoverage;
}

}  // namespace snapgdb
