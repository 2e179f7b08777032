#pragma once

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

// While the tree is stopped: what a network namespace of its own, held by `held`, holds.
void capture_network(const Fd& held, pb::Network& out);
// When it runs again, since that takes long and changes seldom: settings and filters. Returns why
// the filters are not all there are; "" otherwise.
std::string capture_network_settings(const Fd& held, pb::Network& out);

// What of the tree's network is in the way.
void plan_network(const Snapshot& snapshot, RestorePlan& plan);
// Line by line.
std::string describe_network(const pb::Network& network);

// For who knows groups by these numbers.
NetworkContents contents_of(const pb::Network& network, const UserNumbers& numbers);
// Those ends that go where they were, outside; none where that would touch what is not the tree's,
// or takes rights that we do not have.
std::vector<OutsideEnd> ends_of(const RestorePlan& plan);

}  // namespace snapgdb
