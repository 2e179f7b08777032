#include "core/linux/network_links.h"

#include <libmnl/libmnl.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>

#include <algorithm>
#include <set>

#include "core/base/error.h"
#include "core/base/strings.h"

namespace snapgdb {
namespace {

constexpr std::string_view kKinds[] = {"veth", "dummy", "bridge"};
// Every network namespace has these where their modules are loaded (fb_tunnels_only_for_init_net,
// Documentation/admin-guide/sysctl/net.rst), and its loopback device.
constexpr std::string_view kEverywhere[] = {"lo",      "sit0",    "tunl0",   "gre0",    "gretap0",
                                            "erspan0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0"};

// Those of a bridge that are settings, with what they are by themselves; others are states. The
// kernel may have been built without some, and refuses even to leave them as they are.
constexpr std::pair<uint16_t, uint32_t> kBridgeSettings[] = {
    {IFLA_BR_FORWARD_DELAY, 1500}, {IFLA_BR_HELLO_TIME, 200},   {IFLA_BR_MAX_AGE, 2000},
    {IFLA_BR_AGEING_TIME, 30000},  {IFLA_BR_STP_STATE, 0},      {IFLA_BR_PRIORITY, 32768},
    {IFLA_BR_VLAN_FILTERING, 0},   {IFLA_BR_GROUP_FWD_MASK, 0}, {IFLA_BR_MCAST_SNOOPING, 1}};
constexpr uint16_t kLinkSettings[] = {IFLA_ADDRESS, IFLA_MTU, IFLA_TXQLEN, IFLA_GROUP};

nlmsghdr* put_header(nlmsghdr* request, uint32_t index) {
  auto* header = static_cast<ifinfomsg*>(mnl_nlmsg_put_extra_header(request, sizeof(ifinfomsg)));
  header->ifi_index = static_cast<int>(index);
  return request;
}

void put_link(nlmsghdr* request, const std::string& link, const LinkWords& words) {
  put_header(request, words.index);
  mnl_attr_put_strz(request, IFLA_IFNAME, words.name.c_str());
  for (const Attribute& attribute : attributes_of<ifinfomsg>(link))
    if (std::ranges::count(kLinkSettings, attribute.type) && !attribute.value.empty())
      mnl_attr_put(request, attribute.type, attribute.value.size(), attribute.value.data());
}

void put_bridge(nlmsghdr* request, const std::string& link) {
  const auto attributes = attributes_of<ifinfomsg>(link);
  const Attribute* info = find(attributes, IFLA_LINKINFO);
  const auto parts = info ? attributes_in(info->value) : std::vector<Attribute>();
  const Attribute* data = find(parts, IFLA_INFO_DATA);
  if (!data) return;
  for (const Attribute& attribute : attributes_in(data->value))
    for (const auto& [type, usual] : kBridgeSettings)
      if (type == attribute.type && attribute.as<uint32_t>() != usual)
        mnl_attr_put(request, type, attribute.value.size(), attribute.value.data());
}

std::string stand_in_for(const LinkWords& words) {
  return fmt::format("gone{}", words.index);
}

template <typename Ends>
const typename Ends::value_type* end_of(const Ends& ends, uint32_t index) {
  const auto found = std::ranges::find(ends, index, &Ends::value_type::inside);
  return found == ends.end() ? nullptr : &*found;
}

class Maker {
 public:
  Maker(const std::vector<std::string>& links, const OtherEnds& ends) : links_(links), ends_(ends) {
    for (const std::string& link : links) last_ = std::max(last_, describe_link(link).index);
  }

  std::vector<std::string> make_all() {
    for (const std::string& link : links_) make(link);
    return std::move(notes_);
  }

 private:
  // Two ends are made at once. Where the other one is to be, and as what.
  struct Peer {
    std::string link;       // its message; "": nothing is known but its name
    std::string name = {};  // then
    uint32_t index = 0;     // then; 0: any
    int network = -1;       // a descriptor; -1: here
  };

  void make(const std::string& link) {
    const LinkWords words = describe_link(link);
    if (std::ranges::count(kEverywhere, words.name) || made_.contains(words.index)) return;
    const PairedEnd* paired = end_of(ends_.paired, words.index);
    if (paired && !paired->network) return;  // it comes from there
    made_.insert(words.index);
    const bool done = route_.change(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, [&](nlmsghdr* request) {
      put_link(request, link, words);
      nlattr* info = mnl_attr_nest_start(request, IFLA_LINKINFO);
      mnl_attr_put_strz(request, IFLA_INFO_KIND, words.kind.c_str());
      nlattr* data = mnl_attr_nest_start(request, IFLA_INFO_DATA);
      if (words.kind == "bridge") put_bridge(request, link);
      if (words.kind == "veth") put_peer(request, peer_of(words));
      mnl_attr_nest_end(request, data);
      mnl_attr_nest_end(request, info);
    });
    if (!done) throw_errno("cannot make the link {}", printable(words.name));
  }

  Peer peer_of(const LinkWords& words) {
    if (const std::string* here = peer_in_here(words)) {
      made_.insert(words.peer);
      return {*here};
    }
    if (const PairedEnd* paired = end_of(ends_.paired, words.index))
      return {.link = paired->link, .network = *paired->network};
    const OutsideEnd* end = end_of(ends_.outside, words.index);
    if (end && ends_.outside_network >= 0)
      return {.link = {}, .name = end->name, .network = ends_.outside_network};
    notes_.push_back(fmt::format("the other end of link {} was outside: it is {} in here, and down",
                                 printable(words.name), printable(stand_in_for(words))));
    return {.link = {}, .name = stand_in_for(words), .index = ++last_};
  }

  const std::string* peer_in_here(const LinkWords& words) const {
    if (words.peer_is_outside) return nullptr;
    const auto is_it = [&](const std::string& link) {
      const LinkWords other = describe_link(link);
      return other.index == words.peer && other.kind == "veth";
    };
    const auto found = std::ranges::find_if(links_, is_it);
    return found == links_.end() ? nullptr : &*found;
  }

  static void put_peer(nlmsghdr* request, const Peer& peer) {
    nlattr* nest = mnl_attr_nest_start(request, VETH_INFO_PEER);
    if (peer.link.empty())
      mnl_attr_put_strz(put_header(request, peer.index), IFLA_IFNAME, peer.name.c_str());
    else
      put_link(request, peer.link, describe_link(peer.link));
    if (peer.network >= 0)
      mnl_attr_put_u32(request, IFLA_NET_NS_FD, static_cast<uint32_t>(peer.network));
    mnl_attr_nest_end(request, nest);
  }

  RouteSocket route_;
  const std::vector<std::string>& links_;
  const OtherEnds& ends_;
  std::set<uint32_t> made_;  // by index
  // The last index that is taken: who has none of its own gets one that no other is to have.
  uint32_t last_ = 0;
  std::vector<std::string> notes_;
};

// Second ends do not get an alias when they are made.
void join(RouteSocket& route, const std::string& link, std::vector<std::string>& notes) {
  const LinkWords words = describe_link(link);
  const auto attributes = attributes_of<ifinfomsg>(link);
  const Attribute* alias = find(attributes, IFLA_IFALIAS);
  if (!words.master && !alias) return;
  const bool done = route.change(RTM_SETLINK, 0, [&](nlmsghdr* request) {
    put_header(request, words.index);
    if (words.master) mnl_attr_put_u32(request, IFLA_MASTER, words.master);
    if (alias) mnl_attr_put(request, IFLA_IFALIAS, alias->value.size(), alias->value.data());
  });
  if (!done)
    notes.push_back(
        fmt::format("link {} is not in its bridge: {}", printable(words.name), errno_text(errno)));
}

// Up, and in that bridge, if it is to be in one.
bool connect(RouteSocket& route, uint32_t index, bool is_up, uint32_t bridge) {
  return route.change(RTM_SETLINK, 0, [&](nlmsghdr* request) {
    auto* header = static_cast<ifinfomsg*>(mnl_nlmsg_put_extra_header(request, sizeof(ifinfomsg)));
    header->ifi_index = static_cast<int>(index);
    if (is_up) header->ifi_flags = header->ifi_change = IFF_UP;
    if (bridge) mnl_attr_put_u32(request, IFLA_MASTER, bridge);
  });
}

}  // namespace

LinkWords describe_link(std::string_view message) {
  const auto header = header_of<ifinfomsg>(message);
  const auto attributes = attributes_of<ifinfomsg>(message);
  LinkWords words{.index = static_cast<uint32_t>(header.ifi_index),
                  .is_up = (header.ifi_flags & IFF_UP) != 0};
  if (const Attribute* name = find(attributes, IFLA_IFNAME)) words.name = name->text();
  if (const Attribute* master = find(attributes, IFLA_MASTER))
    words.master = master->as<uint32_t>();
  if (const Attribute* info = find(attributes, IFLA_LINKINFO))
    for (const Attribute& part : attributes_in(info->value))
      if (part.type == IFLA_INFO_KIND) words.kind = part.text();
  if (words.kind != "veth") return words;
  if (const Attribute* peer = find(attributes, IFLA_LINK)) words.peer = peer->as<uint32_t>();
  if (const Attribute* network = find(attributes, IFLA_LINK_NETNSID)) {
    words.peer_is_outside = true;
    words.peer_network = network->as<int32_t>();
  }
  return words;
}

std::string why_not_made(const LinkWords& link) {
  if (std::ranges::count(kEverywhere, link.name) > 0 || std::ranges::count(kKinds, link.kind) > 0)
    return "";
  return link.kind.empty() ? "it is a device of the machine"
                           : fmt::format("links of its kind, {}, cannot be made yet", link.kind);
}

std::vector<std::string> network_links() {
  return RouteSocket().dump(RTM_GETLINK, AF_UNSPEC);
}

std::vector<std::string> make_links(const std::vector<std::string>& links, const OtherEnds& ends) {
  return Maker(links, ends).make_all();
}

void join_links(RouteSocket& route, const std::vector<std::string>& links,
                std::vector<std::string>& notes) {
  for (const std::string& link : links) join(route, link, notes);
}

void start_links(RouteSocket& route, const std::vector<std::string>& links,
                 std::vector<std::string>& notes) {
  for (const std::string& link : links) {
    const LinkWords words = describe_link(link);
    if (words.is_up && !connect(route, words.index, true, 0))
      notes.push_back(
          fmt::format("link {} stays down: {}", printable(words.name), errno_text(errno)));
  }
}

std::vector<std::string> connect_ends(const std::vector<OutsideEnd>& ends) {
  std::vector<std::string> notes;
  if (ends.empty()) return notes;
  RouteSocket route;
  for (const OutsideEnd& end : ends) {
    const unsigned index = ::if_nametoindex(end.name.c_str()),
                   bridge = end.bridge.empty() ? 0 : ::if_nametoindex(end.bridge.c_str());
    if (!end.bridge.empty() && !bridge)
      notes.push_back(fmt::format("link {} is in no bridge: {} is not there", printable(end.name),
                                  printable(end.bridge)));
    if (!connect(route, index, end.is_up, bridge))
      notes.push_back(
          fmt::format("link {} is not connected: {}", printable(end.name), errno_text(errno)));
  }
  return notes;
}

}  // namespace snapgdb
