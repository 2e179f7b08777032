// A network namespace of the tree's own: links, addresses, routes, settings, filters.

#include "core/resource/network.h"

#include <net/if.h>
#include <unistd.h>

#include <algorithm>

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

// Of ours, which are the other ends of those. Each of a pair names the other by its index there.
void add_ends(const std::vector<std::string>& links, pb::Network& out) {
  std::vector<LinkWords> ours;
  for (const std::string& link : network_links()) ours.push_back(describe_link(link));
  for (const std::string& link : links) {
    const LinkWords inside = describe_link(link);
    const auto is_other_end = [&](const LinkWords& end) {
      return end.index == inside.peer && end.kind == "veth" && end.peer == inside.index &&
             end.peer_is_outside;
    };
    const auto end = std::ranges::find_if(ours, is_other_end);
    if (!inside.peer_is_outside || end == ours.end()) continue;
    pb::Network::OutsideEnd& kept = *out.add_ends();
    kept.set_inside(inside.index);
    kept.set_name(end->name);
    kept.set_bridge(name_of(ours, end->master));
    kept.set_is_up(end->is_up);
  }
}

}  // namespace

void capture_network(const Fd& held, pb::Network& out) {
  NetworkContents contents;
  in_namespace(held, "net", [&] { contents = network_contents(); });
  keep(contents.links, *out.mutable_links());
  keep(contents.addresses, *out.mutable_addresses());
  keep(contents.routes, *out.mutable_routes());
  keep(contents.rules, *out.mutable_rules());
  keep(contents.neighbours, *out.mutable_neighbours());
  add_ends(contents.links, out);
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
  if (!plan.network) return;
  for (const std::string& link : plan.network->links()) {
    const LinkWords words = describe_link(link);
    if (can_make(words)) continue;
    plan.obstacles.push_back(
        {snapshot.root().pid(), "network link " + printable(words.name),
         words.kind.empty() ? "it is a device of the machine"
                            : fmt::format("links of its kind, {}, cannot be made yet", words.kind),
         "--without network: the tree gets the network that is here, or isolated an empty one"});
  }
  for (const OutsideEnd& end : ends_of(plan))
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
    out += fmt::format("net namespace: the other end of link {} outside, {}{}\n", end.inside(),
                       printable(end.name()),
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
  const auto all = [](const auto& messages) {
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

std::vector<OutsideEnd> ends_of(const RestorePlan& plan) {
  std::vector<OutsideEnd> ends;
  if (!plan.network || plan.isolated || plan.own_user || ::geteuid() != 0) return ends;
  for (const pb::Network::OutsideEnd& end : plan.network->ends())
    ends.push_back({end.inside(), end.name(), end.bridge(), end.is_up()});
  return ends;
}

}  // namespace snapgdb
