#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/base/fd.h"
#include "core/image/snapshot.h"
#include "core/linux/freezer.h"
#include "core/linux/network.h"
#include "core/resource/user_numbers.h"

namespace snapgdb {

struct CaptureContext;
struct RestorePlan;

// While the tree is stopped: what a network namespace of its own, held by `held`, holds. `member`:
// a process in it.
void capture_network(CaptureContext& context, Pid member, const Fd& held, pb::Network& out);
// When it runs again, since that takes long and changes seldom: settings and filters. Returns why
// the filters are not all there are; "" otherwise.
std::string capture_network_settings(const Fd& held, pb::Network& out);
// While the tree is stopped, when all networks are captured: finds the pairs of links whose ends
// are in two of them.
void pair_networks(CaptureContext& context, pb::SnapshotRecord& record);

// What of the tree's network is in the way.
void plan_network(const Snapshot& snapshot, RestorePlan& plan);
// Line by line.
std::string describe_network(const pb::Network& network);

// For who knows groups by these numbers.
NetworkContents contents_of(const pb::Network& network, const UserNumbers& numbers);
// Those ends that go where they were, outside; none where that would touch what is not the tree's,
// or takes rights that we do not have.
std::vector<OutsideEnd> outside_ends(const RestorePlan& plan, const pb::NamespaceState& network);

// All that are made, in this order: the first process's, if it had its own, and those below.
std::vector<const pb::NamespaceState*> restored_networks(const RestorePlan& plan);
// The ends, in other ones of those, of the pairs of one. `made`: descriptors of those that are
// there, by inode; with the others they make the pairs.
std::vector<PairedEnd> paired_ends(const RestorePlan& plan, const pb::NamespaceState& network,
                                   const std::map<uint64_t, int>& made);

}  // namespace snapgdb
