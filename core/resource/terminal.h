#pragma once

#include <string>
#include <vector>

#include "core/base/fd.h"
#include "core/linux/terminal.h"
#include "core/resource/resource.h"
#include "core/resource/restorer.h"

namespace snapgdb {

// What a descriptor of a terminal leads to.
void capture_terminal(CaptureContext& context, const OpenDescriptor& open, pb::Device& out);

// Where the tree ends: what is queued in terminals of its own, of which it has both sides. While it
// is stopped. They go back unless kept, once the image has them for good.
std::vector<TakenQueues> take_terminal_queues(CaptureContext& context,
                                              std::vector<pb::Process>& processes);

// Whether the terminal is one of the tree's own: it has the master.
bool is_own_terminal(const Snapshot& snapshot, const pb::Descriptor& descriptor);
// Whether it is a console or a line of the machine's that was only used like any other device:
// nobody's controlling terminal or standard stream. Those become the terminal of the restore.
bool is_machines_terminal(const Snapshot& snapshot, const pb::Descriptor& descriptor);
Fd open_terminal(OpeningContext& context, const pb::Descriptor& descriptor);
// A slave whose master is closed (Device.hung_up): so it is as soon as all files are open.
Fd open_hung_up_terminal(OpeningContext& context, const pb::Descriptor& descriptor);
// What will be otherwise than it was; "" if nothing.
std::string terminal_note(const Snapshot& snapshot, const pb::Descriptor& descriptor,
                          bool isolated);
// When all are open: what is queued in them, and what would have been in the way.
void finish_terminals(OpeningContext& context, const RestorePlan& plan,
                      const std::vector<Fd>& files);

// The descriptor, while the tree grows, of the master of a session's controlling terminal; nullopt:
// it has none, or one that is not the tree's own.
std::optional<uint64_t> master_for(const Snapshot& snapshot, const RestorePlan& plan,
                                   const pb::Process& leader);
// Makes it that of the leader's session, before there is anybody else in it.
void take_terminal(Seed& leader, uint64_t master);
// Precondition: the group is there, and the leader's is the foreground group still.
void set_foreground(Seed& leader, uint64_t master, int32_t group);

}  // namespace snapgdb
