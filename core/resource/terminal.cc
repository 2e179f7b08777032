#include "core/resource/terminal.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>
#undef major  // those of sysmacros.h, in the way of the schema's
#undef minor

#include <algorithm>
#include <map>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/device_number.h"
#include "core/linux/task.h"
#include "core/linux/terminal.h"

namespace snapgdb {
namespace {

// Documentation/admin-guide/devices.txt
constexpr uint32_t kTtyMajor = 5, kPtmxMinor = 2, kFirstSlaveMajor = 136, kSlaveMajors = 8,
                   kMinors = 256;
constexpr uint64_t kPtmx =
    kTtyMajor << 8 | kPtmxMinor;              // as st_dev would be: no file system has it
constexpr uint64_t kHungUp = kTtyMajor << 8;  // likewise

bool is_master(const pb::Device& device) {
  return device.major() == kTtyMajor && device.minor() == kPtmxMinor;
}

bool is_slave(const pb::Device& device) {
  return device.major() >= kFirstSlaveMajor && device.major() < kFirstSlaveMajor + kSlaveMajors;
}

// The file system of the slave's node. A master, or /dev/tty, may lie on another one: then it is
// the one that the process sees where it usually is.
uint64_t devpts_of(const OpenDescriptor& open, const Fd& terminal) {
  struct statfs system {};
  if (::fstatfs(terminal.get(), &system) == 0 && system.f_type == DEVPTS_SUPER_MAGIC)
    return open.status.st_dev;
  struct stat status {};
  constexpr const char* kUsual = "root/dev/pts";
  return ::fstatat(open.process.task_proc.fd(), kUsual, &status, 0) == 0 ? status.st_dev : 0;
}

TerminalState state_in(const pb::Terminal& record) {
  return {.master = record.master(),
          .index = record.index(),
          .settings = record.settings(),
          .locked_settings = record.locked_settings(),
          .window_size = record.window_size(),
          .packet_mode = record.packet_mode(),
          .locked = record.locked(),
          .exclusive = record.exclusive(),
          .hung_up = record.hung_up(),
          .line_discipline = record.line_discipline()};
}

// Each devpts counts its own; 0: which one it is on is not known.
struct TerminalNumber {
  uint64_t devpts = 0;
  uint32_t index = 0;
  static TerminalNumber of(const pb::Terminal& state) { return {state.devpts(), state.index()}; }
  bool is_of(const pb::Terminal& state) const {
    return index == state.index() && (devpts == state.devpts() || !devpts || !state.devpts());
  }
};

template <typename Is>
const pb::Descriptor* terminal_that(const pb::Process& process, Is is) {
  const pb::Descriptor* found = nullptr;
  for_each_descriptor(process, [&](const pb::Descriptor& descriptor) {
    if (!found && descriptor.device_node().has_state() && is(descriptor.device_node().state()))
      found = &descriptor;
  });
  return found;
}

const pb::Descriptor* master_in(const Snapshot& snapshot, const TerminalNumber& number) {
  for (const pb::Process& process : snapshot.processes())
    if (const auto* master = terminal_that(process, [&](const pb::Terminal& state) {
          return state.master() && number.is_of(state);
        }))
      return master;
  return nullptr;
}

// The controlling terminal of a session is told by its index; who is in it usually has it open.
std::optional<TerminalNumber> terminal_of_session(const Snapshot& snapshot,
                                                  const pb::Process& leader) {
  const auto index = index_of_slave(leader.terminal());
  if (!index) return std::nullopt;
  for (const pb::Process& process : snapshot.processes()) {
    if (process.session() != leader.session()) continue;
    if (const auto* slave = terminal_that(process, [&](const pb::Terminal& state) {
          return !state.master() && state.index() == *index;
        }))
      return TerminalNumber::of(slave->device_node().state());
  }
  return TerminalNumber{0, *index};
}

// Made when the first of its descriptors is opened, as it was at its master.
const Fd& master_object(OpeningContext& context, const pb::Terminal& terminal) {
  const pb::Terminal& state =
      master_in(context.snapshot, TerminalNumber::of(terminal))->device_node().state();
  const auto [known, is_new] =
      context.objects.try_emplace({state.devpts() ? state.devpts() : kPtmx, state.index()});
  Fd& master = known->second;
  if (!is_new) return master;
  master = open_master(terminal.index());
  unsigned number = terminal.index();  // somebody may have been faster
  if (::ioctl(master.get(), TIOCGPTN, &number) == 0 && number != terminal.index())
    context.notes.push_back(
        fmt::format("/dev/pts/{} is /dev/pts/{} now: the terminal gets another number",
                    terminal.index(), number));
  set_terminal(master, state_in(state));
  if (state.hung_up()) put_queues(master, open_slave(master, O_RDWR), {.output = state.unread()});
  return master;
}

// EINVAL: a user that the tree's user namespace does not have.
void set_node(const Fd& slave, const pb::Terminal& state, const UserNumbers& numbers,
              const std::string& name) {
  const bool is_given =
      ::geteuid() != 0 ||
      ::fchown(slave.get(), numbers.user(state.owner()), numbers.group(state.group())) == 0 ||
      errno == EINVAL;
  if (!is_given || ::fchmod(slave.get(), state.mode() & 07777) != 0)
    throw_errno("cannot set the owner and the rights of {}", printable(name));
}

constexpr const char* kOnlyTaken =
    "which cannot be read without taking them away; capture --kill does that";

// What only take_terminal_queues() gets to know.
void report_what_is_not_taken(CaptureContext& context, const OpenDescriptor& open,
                              const TerminalState& state) {
  const auto lacks = [&](const std::string& what, const std::string& why) {
    context.lacks(open.process.pid, {}, what + " of " + open.target, why);
  };
  if (state.has_unread) lacks("queue", fmt::format("{} bytes, {}", state.unread, kOnlyTaken));
  if (state.has_packet_status) lacks("queue", fmt::format("tells of packet mode, {}", kOnlyTaken));
  if (!state.takes_output)
    lacks(
        "flow",
        "its output is stopped, or its other side full: which of them, only capture --kill tells");
}

}  // namespace

void capture_terminal(CaptureContext& context, const OpenDescriptor& open, pb::Device& out) {
  const Fd terminal = duplicate_descriptor(open.process.a_task(), open.number);
  if (!terminal.valid())
    return context.lacks(open.process.pid, {}, "state of " + open.target,
                         "pidfd_getfd(2) is refused");
  const auto state = terminal_state(terminal, is_master(out));
  if (!state) return out.set_hung_up(is_slave(out) && is_hung_up_slave(terminal));
  pb::Terminal& record = *out.mutable_state();
  record.set_master(state->master);
  record.set_index(state->index);
  record.set_devpts(devpts_of(open, terminal));
  record.set_settings(state->settings);
  record.set_locked_settings(state->locked_settings);
  record.set_window_size(state->window_size);
  record.set_packet_mode(state->packet_mode);
  record.set_locked(state->locked);
  record.set_exclusive(state->exclusive);
  record.set_hung_up(state->hung_up);
  record.set_line_discipline(state->line_discipline);
  record.set_mode(open.status.st_mode);
  record.set_owner(open.status.st_uid);
  record.set_group(open.status.st_gid);
  if (!context.ends) report_what_is_not_taken(context, open, *state);
}

namespace {

// One descriptor of a side of a terminal.
struct Side {
  Tid holder;
  pb::Descriptor* descriptor = nullptr;

  Fd open() const {
    Fd same = duplicate_descriptor(holder, descriptor->number());
    if (!same.valid()) throw_errno("cannot reach {}", printable(descriptor->target()));
    return same;
  }
  pb::Terminal& record() const { return *descriptor->mutable_device_node()->mutable_state(); }
};

// By file system and number: the first of each side.
using Terminals = std::map<std::pair<uint64_t, uint32_t>, std::pair<Side, Side>>;

Terminals terminals_of(const CaptureContext& context, std::vector<pb::Process>& processes) {
  Terminals terminals;
  for (size_t i = 0; i < processes.size(); ++i)
    for (pb::Descriptor& descriptor : *processes[i].mutable_descriptors()) {
      const pb::Terminal& state = descriptor.device_node().state();
      if (!descriptor.device_node().has_state()) continue;
      auto& [master, slave] = terminals[{state.devpts(), state.index()}];
      Side& side = state.master() ? master : slave;
      if (!side.descriptor) side = {context.tree.processes[i].a_task(), &descriptor};
    }
  return terminals;
}

void describe(const TerminalQueues& queues, pb::Terminal& master, pb::Terminal* slave) {
  master.set_unread(queues.output);
  master.set_flow(static_cast<pb::Terminal::Flow>(queues.flow));
  master.set_packet_status(queues.packet_status);
  if (!slave) return;
  slave->set_unread(queues.input);
  slave->mutable_ends_of_file()->Assign(queues.ends_of_file.begin(), queues.ends_of_file.end());
}

}  // namespace

std::vector<TakenQueues> take_terminal_queues(CaptureContext& context,
                                              std::vector<pb::Process>& processes) {
  std::vector<TakenQueues> taken;
  if (!context.ends) return taken;
  for (const auto& [key, sides] : terminals_of(context, processes)) {
    const auto& [master, slave] = sides;
    const Side& known = master.descriptor ? master : slave;
    const auto lacks = [&](const std::string& why) {
      context.lacks(context.tree.processes.front().pid, {},
                    "queue of " + known.descriptor->target(), why);
    };
    try {
      if (master.descriptor) {
        TakenQueues& queues =
            taken.emplace_back(master.open(), slave.descriptor ? slave.open() : Fd());
        queues.take();
        describe(queues.queues(), master.record(), slave.descriptor ? &slave.record() : nullptr);
        if (const int lost = lost_packet_status(queues.queues()))
          lacks(fmt::format("what packet mode tells, {:#x}, cannot be brought about again", lost));
      }
      if (!master.descriptor && terminal_state(slave.open(), false)->has_unread)
        lacks("its other side is not in the tree");
    } catch (const SystemError& error) {
      lacks(error.what());
    }
  }
  return taken;
}

// ---- Restoring ----------------------------------------------------------------------------------

bool is_own_terminal(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  const pb::Device& device = descriptor.device_node();
  return device.has_state() && master_in(snapshot, TerminalNumber::of(device.state()));
}

bool is_machines_terminal(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  const pb::Device& device = descriptor.device_node();
  constexpr uint32_t kConsoleMajor = 4,
                     kConsoleMinor = 1;  // /dev/ttyN, /dev/ttySN; 5:1 /dev/console
  const bool is_machines =
      device.terminal() && (device.major() == kConsoleMajor ||
                            (device.major() == kTtyMajor && device.minor() == kConsoleMinor));
  const auto is_its_screen = [&](const pb::Process& process) {
    return std::ranges::any_of(process.descriptors(), [&](const pb::Descriptor& other) {
      return other.description() == descriptor.description() &&
             (other.number() <= STDERR_FILENO ||
              process.terminal() == make_device(device.major(), device.minor()));
    });
  };
  return is_machines && std::ranges::none_of(snapshot.processes(), is_its_screen);
}

Fd open_terminal(OpeningContext& context, const pb::Descriptor& descriptor) {
  const pb::Terminal& state = descriptor.device_node().state();
  const Fd& master = master_object(context, state);
  const auto flags = static_cast<int>(descriptor.flags());
  if (!state.master()) {
    Fd slave = open_slave(master, flags & (O_ACCMODE | O_NONBLOCK));
    if (state.line_discipline()) set_terminal(slave, state_in(state));
    const bool has_node = descriptor.target().starts_with("/dev/pts/");
    if (has_node) set_node(slave, state, context.numbers, descriptor.target());
    return slave;
  }
  Fd same(::fcntl(master.get(), F_DUPFD_CLOEXEC, 0));
  if (!same.valid() || ::fcntl(same.get(), F_SETFL, flags & O_NONBLOCK) != 0)
    throw_errno("cannot duplicate the master of a terminal");
  return same;
}

// All descriptions of it belong to one terminal, whose master is closed with the context.
Fd open_hung_up_terminal(OpeningContext& context, const pb::Descriptor& descriptor) {
  const pb::Device& device = descriptor.device_node();
  const uint32_t index = (device.major() - kFirstSlaveMajor) * kMinors + device.minor();
  const auto [known, is_new] = context.objects.try_emplace({kHungUp, index});
  if (is_new) known->second = open_master(index);
  return open_slave(known->second, static_cast<int>(descriptor.flags()) & (O_ACCMODE | O_NONBLOCK));
}

std::string terminal_note(const Snapshot& snapshot, const pb::Descriptor& descriptor,
                          bool isolated) {
  if (!is_own_terminal(snapshot, descriptor)) return "";
  const pb::Terminal& state = descriptor.device_node().state();
  const std::string name = fmt::format("/dev/pts/{}", state.index());
  if (state.master() && !isolated && ::access(name.c_str(), F_OK) == 0)
    return fmt::format("{} is somebody else's now: the terminal gets another number", name);
  if (descriptor.target() == "/dev/tty") return fmt::format("it is opened as {}", name);
  return "";
}

namespace {

// Files of the plan, with both sides of the tree's own terminals.
struct OpenTerminal {
  TerminalNumber number;
  const Fd *master = nullptr, *slave = nullptr;
  TerminalQueues queues = {};
};

// Each is at one descriptor of its side.
void add_queues(const pb::Terminal& state, TerminalQueues& queues) {
  (state.master() ? queues.output : queues.input) += state.unread();
  for (const uint32_t end : state.ends_of_file()) queues.ends_of_file.push_back(end);
  if (state.flow()) queues.flow = static_cast<TerminalQueues::Flow>(state.flow());
  queues.packet_status |= static_cast<uint8_t>(state.packet_status());
}

std::vector<OpenTerminal> open_terminals(const RestorePlan& plan, const std::vector<Fd>& files) {
  std::vector<OpenTerminal> terminals;
  for (size_t i = 0; i < files.size(); ++i) {
    const pb::Descriptor* descriptor = plan.files[i].descriptor;
    const bool is_one = plan.files[i].how == PlannedFile::How::kOpened && descriptor &&
                        descriptor->device_node().has_state();
    if (!is_one) continue;
    const pb::Terminal& state = descriptor->device_node().state();
    auto known = std::ranges::find_if(
        terminals, [&](const OpenTerminal& terminal) { return terminal.number.is_of(state); });
    if (known == terminals.end())
      known = terminals.insert(known, {.number = TerminalNumber::of(state)});
    OpenTerminal& terminal = *known;
    (state.master() ? terminal.master : terminal.slave) = &files[i];
    add_queues(state, terminal.queues);
  }
  return terminals;
}

}  // namespace

void finish_terminals(OpeningContext& context, const RestorePlan& plan,
                      const std::vector<Fd>& files) {
  for (const OpenTerminal& terminal : open_terminals(plan, files)) {
    if (!terminal.master || !terminal.slave) continue;
    const size_t lost =
        put_queues(*terminal.master, open_slave(*terminal.master, O_RDWR), terminal.queues);
    if (lost)
      context.notes.push_back(
          fmt::format("/dev/pts/{} has no room for {} of the bytes that were queued in it",
                      terminal.number.index, lost));
  }
  for (size_t i = 0; i < files.size(); ++i) {
    const pb::Descriptor* descriptor = plan.files[i].descriptor;
    if (plan.files[i].how == PlannedFile::How::kOpened && descriptor &&
        descriptor->device_node().has_state())
      close_off_terminal(files[i], state_in(descriptor->device_node().state()));
  }
}

std::optional<uint64_t> master_for(const Snapshot& snapshot, const RestorePlan& plan,
                                   const pb::Process& leader) {
  const auto number = terminal_of_session(snapshot, leader);
  const pb::Descriptor* master = number ? master_in(snapshot, *number) : nullptr;
  const int file = master ? plan.file_of(*master) : -1;
  return file < 0 ? std::nullopt : std::optional(static_cast<uint64_t>(file));
}

void take_terminal(Seed& leader, uint64_t master) {
  const auto slave = static_cast<uint64_t>(
      leader.call("open its terminal", SYS_ioctl, {master, TIOCGPTPEER, O_RDWR | O_NOCTTY}));
  leader.add("take its controlling terminal", SYS_ioctl, {slave, TIOCSCTTY, 0});
  leader.add("close its terminal", SYS_close, {slave});
  leader.perform();
}

void set_foreground(Seed& leader, uint64_t master, int32_t group) {
  leader.call("set the foreground group of its terminal", SYS_ioctl,
              {master, TIOCSPGRP, leader.put_value(group)});
}

}  // namespace snapgdb
