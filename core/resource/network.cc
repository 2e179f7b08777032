// A network namespace of the tree's own: links, addresses, routes, settings, filters.

#include "core/resource/network.h"

#include <fcntl.h>
#include <net/if.h>
#include <unistd.h>

#include <algorithm>
#include <ranges>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/namespaces.h"
#include "core/resource/resource.h"
#include "core/resource/restorer.h"

namespace snapgdb {
namespace {

void keep(const std::vector<std::string>& messages,
          google::protobuf::RepeatedPtrField<std::string>& out) {
  out.Assign(messages.begin(), messages.end());
}

std::string name_of(const std::vector<LinkWords>& links, uint32_t index) {
  const auto found = std::ranges::find(links, index, &LinkWords::index);
  return found == links.end() ? "" : found->name;
}

// Of ours, which are the other ends of those. `our_number`: by which that network knows ours.
void add_ends(const std::vector<std::string>& links, int32_t our_number, pb::Network& out) {
  std::vector<LinkWords> ours;
  for (const std::string& link : network_links()) ours.push_back(describe_link(link));
  for (const std::string& link : links) {
    const LinkWords inside = describe_link(link);
    if (!inside.peer_is_outside || inside.peer_network != our_number) continue;
    const auto end = std::ranges::find(ours, inside.peer, &LinkWords::index);
    if (end == ours.end()) continue;
    pb::Network::OutsideEnd& kept = *out.add_ends();
    kept.set_inside(inside.index);
    kept.set_name(end->name);
    kept.set_bridge(name_of(ours, end->master));
    kept.set_is_up(end->is_up);
  }
}

const std::string* link_of(const pb::Network& network, uint32_t index) {
  const auto found = std::ranges::find_if(
      network.links(), [&](const std::string& link) { return describe_link(link).index == index; });
  return found == network.links().end() ? nullptr : &*found;
}

// A network whose links have ends in others, by their own index and that of the end.
struct Joined {
  pb::NamespaceState* state;
  const Fd* held;
  std::map<std::pair<uint32_t, uint32_t>, int32_t> links;  // the number of the other network
};

Joined joined_of(pb::NamespaceState& state, const Fd& held) {
  Joined joined{&state, &held, {}};
  for (const std::string& link : state.network().links())
    if (const LinkWords words = describe_link(link); words.peer_is_outside)
      joined.links[{words.index, words.peer}] = words.peer_network;
  return joined;
}

// Links that may be ends of one pair, as far as indexes tell.
bool may_be_joined(const Joined& one, const Joined& other) {
  return std::ranges::any_of(one.links, [&](const auto& link) {
    return other.links.contains({link.first.second, link.first.first});
  });
}

// `number`: by which `one` knows the other.
void pair(const Joined& one, int32_t number, const Joined& other) {
  for (const auto& [indexes, network] : one.links) {
    if (network != number || !other.links.contains({indexes.second, indexes.first})) continue;
    pb::Network::OutsideEnd& end = *one.state->mutable_network()->add_ends();
    end.set_inside(indexes.first);
    end.set_network(other.state->inode());
    end.set_index(indexes.second);
  }
}

}  // namespace

void capture_network(CaptureContext& context, Pid member, const Fd& held, pb::Network& out) {
  NetworkContents contents;
  const Fd ours(::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
  int32_t our_number = -1;
  in_namespace(held, "net", [&] {
    contents = network_contents();
    if (ours.valid()) our_number = RouteSocket().number_of(ours.get());
  });
  keep(contents.links, *out.mutable_links());
  keep(contents.addresses, *out.mutable_addresses());
  keep(contents.routes, *out.mutable_routes());
  keep(contents.rules, *out.mutable_rules());
  keep(contents.neighbours, *out.mutable_neighbours());
  if (our_number >= 0) add_ends(contents.links, our_number, out);
  for (const std::string& queue : contents.queues)
    context.lacks(member, {}, "queueing discipline " + printable(queue),
                  "how packets wait to be sent (tc(8)) is not carried");
}

void pair_networks(CaptureContext& context, pb::SnapshotRecord& record) {
  std::vector<Joined> all;
  for (pb::NamespaceState& state : *record.mutable_spaces())
    if (const auto held = context.networks.find(state.inode()); held != context.networks.end())
      all.push_back(joined_of(state, held->second.second));
  for (const Joined& one : all) {
    const auto is_wanted = [&](const Joined& other) {
      return &other != &one && may_be_joined(one, other);
    };
    if (std::ranges::none_of(all, is_wanted)) continue;
    try {
      in_namespace(*one.held, "net", [&] {
        RouteSocket route;
        for (const Joined& other : all | std::views::filter(is_wanted))
          if (const int32_t number = route.number_of(other.held->get()); number >= 0)
            pair(one, number, other);
      });
    } catch (const Error& error) {
      context.lacks(context.networks.at(one.state->inode()).first, {},
                    "pairs of links with other networks of the tree", error.what());
    }
  }
}

std::string capture_network_settings(const Fd& held, pb::Network& out) {
  NetworkContents contents;
  in_namespace(held, "net", [&] { read_settings_and_filters(contents); });
  for (const auto& [name, value] : contents.settings) {
    pb::Network::Setting& setting = *out.add_settings();
    setting.set_name(name);
    setting.set_value(value);
  }
  out.set_filters(contents.filters);
  return contents.why_no_filters;
}

void plan_network(const Snapshot& snapshot, RestorePlan& plan) {
  if (plan.network)
    for (const std::string& link : plan.network->network().links()) {
      const LinkWords words = describe_link(link);
      if (const std::string why = why_not_made(words); !why.empty())
        plan.obstacles.push_back(
            {snapshot.root().pid(), "network link " + printable(words.name), why,
             "--without network: the tree gets the network that is here, or isolated an empty "
             "one"});
    }
  for (const pb::NamespaceState* network : restored_networks(plan))
    for (const OutsideEnd& end : outside_ends(plan, *network))
      if (::if_nametoindex(end.name.c_str()))
        plan.obstacles.push_back({snapshot.root().pid(), "network link " + printable(end.name),
                                  "it is the other end of one of the tree's, and there is another "
                                  "one of that name",
                                  "--isolated, or remove it: ip link delete"});
}

std::string describe_network(const pb::Network& network) {
  std::string out;
  for (const std::string& link : network.links()) {
    const LinkWords words = describe_link(link);
    out += fmt::format("net namespace: link {}{}{}\n", printable(words.name),
                       words.kind.empty() ? "" : ", a " + words.kind, words.is_up ? "" : ", down");
  }
  for (const pb::Network::OutsideEnd& end : network.ends())
    out += end.network()
               ? fmt::format("net namespace: the other end of link {} in another of the tree's\n",
                             end.inside())
               : fmt::format("net namespace: the other end of link {} outside, {}{}\n",
                             end.inside(), printable(end.name()),
                             end.bridge().empty() ? "" : ", in bridge " + printable(end.bridge()));
  return out + fmt::format("net namespace: {} addresses, {} routes, {} rules\n",
                           network.addresses_size(), network.routes_size(), network.rules_size());
}

namespace {

// Of groups, icmp(7): those that have no number there are none either.
std::string range_inside(const std::string& value, const UserNumbers& numbers) {
  const auto ends = split_blank(value);
  const auto number = [&](size_t i) {
    const auto outside = i < ends.size() ? parse_number<uint32_t>(ends[i]) : std::nullopt;
    return outside ? numbers.group(*outside) : UserNumbers::kNone;
  };
  const uint32_t first = number(0), last = number(1);
  return first == UserNumbers::kNone || last == UserNumbers::kNone
             ? value
             : fmt::format("{}\t{}", first, last);
}

}  // namespace

NetworkContents contents_of(const pb::Network& network, const UserNumbers& numbers) {
  // Of the kernel's, none has more than a page; they are put together in buffers of 64 KiB.
  constexpr size_t kLongest = 16384;
  const auto all = [](const auto& messages) {
    for (const std::string& message : messages)
      if (message.size() > kLongest)
        throw Error("cannot make the network of the tree", "the image has too long a message");
    return std::vector<std::string>(messages.begin(), messages.end());
  };
  NetworkContents contents{.links = all(network.links()),
                           .addresses = all(network.addresses()),
                           .routes = all(network.routes()),
                           .rules = all(network.rules()),
                           .neighbours = all(network.neighbours()),
                           .filters = network.filters()};
  for (const pb::Network::Setting& setting : network.settings())
    contents.settings[setting.name()] = setting.name() == "ipv4/ping_group_range"
                                            ? range_inside(setting.value(), numbers)
                                            : setting.value();
  return contents;
}

// Where the first process has its own, those below are made from there: what they have outside of
// the tree stays inside.
std::vector<OutsideEnd> outside_ends(const RestorePlan& plan, const pb::NamespaceState& network) {
  std::vector<OutsideEnd> ends;
  const bool is_made_there = plan.network && plan.network != &network;
  if (is_made_there || plan.isolated || plan.own_user || ::geteuid() != 0) return ends;
  for (const pb::Network::OutsideEnd& end : network.network().ends())
    if (!end.network() && end.name().size() < IFNAMSIZ)
      ends.push_back({end.inside(), end.name(), end.bridge(), end.is_up()});
  return ends;
}

std::vector<const pb::NamespaceState*> restored_networks(const RestorePlan& plan) {
  std::vector<const pb::NamespaceState*> networks;
  if (plan.network) networks.push_back(plan.network);
  std::ranges::copy_if(plan.spaces, std::back_inserter(networks),
                       [](const pb::NamespaceState* state) { return state->kind() == "net"; });
  return networks;
}

std::vector<PairedEnd> paired_ends(const RestorePlan& plan, const pb::NamespaceState& network,
                                   const std::map<uint64_t, int>& made) {
  std::vector<PairedEnd> ends;
  const auto all = restored_networks(plan);
  for (const pb::Network::OutsideEnd& end : network.network().ends()) {
    const auto other = std::ranges::find(all, end.network(), &pb::NamespaceState::inode);
    if (!end.network() || other == all.end()) continue;
    const std::string* link = link_of((*other)->network(), end.index());
    const bool is_mutual =
        std::ranges::any_of((*other)->network().ends(), [&](const pb::Network::OutsideEnd& back) {
          return back.network() == network.inode() && back.index() == end.inside() &&
                 back.inside() == end.index();
        });
    if (!link || !is_mutual) continue;
    const auto descriptor = made.find(end.network());
    ends.push_back({end.inside(), *link, {}});
    if (descriptor != made.end()) ends.back().network = descriptor->second;
  }
  return ends;
}

}  // namespace snapgdb
