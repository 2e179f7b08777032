#include "core/linux/network.h"

#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/fib_rules.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/network_lock.h"

namespace snapgdb {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSettings = "/proc/sys/net/";
// Those that each network namespace has of its own, and may set (other files there are of the whole
// machine, or are orders).
constexpr const char* kOwnSettings[] = {"ipv4", "ipv6", "core/somaxconn", "unix"};
constexpr std::string_view kOrders[] = {"flush", "stable_secret"};

// ---- Messages -----------------------------------------------------------------------------------

template <typename Header>
Header header_of(std::string_view message) {
  Header header{};
  std::memcpy(&header, message.data(), std::min(sizeof header, message.size()));
  return header;
}

struct Attribute {
  uint16_t type = 0;
  std::string_view value;

  template <typename T>
  T as() const {
    T number{};
    std::memcpy(&number, value.data(), std::min(sizeof number, value.size()));
    return number;
  }
  std::string text() const { return std::string(value.substr(0, value.find('\0'))); }
};

std::vector<Attribute> attributes_in(std::string_view rest) {
  std::vector<Attribute> attributes;
  while (rest.size() >= sizeof(nlattr)) {
    const auto header = header_of<nlattr>(rest);
    if (header.nla_len < sizeof header || header.nla_len > rest.size()) break;
    attributes.push_back({static_cast<uint16_t>(header.nla_type & NLA_TYPE_MASK),
                          rest.substr(sizeof header, header.nla_len - sizeof header)});
    rest.remove_prefix(std::min<size_t>(NLA_ALIGN(header.nla_len), rest.size()));
  }
  return attributes;
}

template <typename Header>
std::vector<Attribute> attributes_of(std::string_view message) {
  return attributes_in(
      message.substr(std::min<size_t>(NLMSG_ALIGN(sizeof(Header)), message.size())));
}

const Attribute* find(const std::vector<Attribute>& attributes, uint16_t type) {
  const auto found = std::ranges::find(attributes, type, &Attribute::type);
  return found == attributes.end() ? nullptr : &*found;
}

// A conversation with the kernel's routing part, in the network namespace that the caller is in.
class Route {
 public:
  Route() : socket_(mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC), mnl_socket_close) {
    if (!socket_ || mnl_socket_bind(socket_.get(), 0, MNL_SOCKET_AUTOPID) != 0)
      throw_errno("cannot ask the kernel for its network");
  }

  std::vector<std::string> dump(uint16_t type, uint8_t family) {
    std::vector<char> buffer(32768);
    nlmsghdr* request = begin(buffer, type, NLM_F_DUMP);
    *static_cast<rtgenmsg*>(mnl_nlmsg_put_extra_header(request, dump_header(type))) = {family};
    send(request);
    std::vector<std::string> messages;
    receive([&](const nlmsghdr* message) {
      messages.emplace_back(static_cast<const char*>(mnl_nlmsg_get_payload(message)),
                            mnl_nlmsg_get_payload_len(message));
    });
    return messages;
  }

  // `fill` adds to the message. False: errno says why not.
  bool change(uint16_t type, uint16_t flags, const std::function<void(nlmsghdr*)>& fill) {
    std::vector<char> buffer(65536);
    nlmsghdr* request = begin(buffer, type, static_cast<uint16_t>(flags | NLM_F_ACK));
    fill(request);
    send(request);
    try {
      receive([](const nlmsghdr*) {});
    } catch (const SystemError& error) {
      errno = error.error_number();
      return false;
    }
    return true;
  }
  bool replay(uint16_t type, uint16_t flags, std::string_view message) {
    return change(type, flags, [&](nlmsghdr* request) {
      std::memcpy(mnl_nlmsg_put_extra_header(request, message.size()), message.data(),
                  message.size());
    });
  }

 private:
  static size_t dump_header(uint16_t type) {
    if (type == RTM_GETLINK) return sizeof(ifinfomsg);
    if (type == RTM_GETADDR) return sizeof(ifaddrmsg);
    if (type == RTM_GETNEIGH) return sizeof(ndmsg);
    return sizeof(rtmsg);
  }
  nlmsghdr* begin(std::vector<char>& buffer, uint16_t type, uint16_t flags) {
    nlmsghdr* request = mnl_nlmsg_put_header(buffer.data());
    request->nlmsg_type = type;
    request->nlmsg_flags = static_cast<uint16_t>(flags | NLM_F_REQUEST);
    request->nlmsg_seq = ++sequence_;
    return request;
  }
  void send(const nlmsghdr* request) {
    if (mnl_socket_sendto(socket_.get(), request, request->nlmsg_len) < 0)
      throw_errno("cannot ask the kernel for its network");
  }
  void receive(const std::function<void(const nlmsghdr*)>& each) {
    std::vector<char> buffer(256 * 1024);
    int more = 1;
    while (more > 0) {
      const ssize_t n = mnl_socket_recvfrom(socket_.get(), buffer.data(), buffer.size());
      if (n < 0) throw_errno("cannot ask the kernel for its network");
      more = mnl_cb_run(
          buffer.data(), static_cast<size_t>(n), sequence_, mnl_socket_get_portid(socket_.get()),
          [](const nlmsghdr* message, void* work) {
            (*static_cast<const std::function<void(const nlmsghdr*)>*>(work))(message);
            return MNL_CB_OK;
          },
          const_cast<void*>(static_cast<const void*>(&each)));
      if (more < 0) throw_errno("cannot ask the kernel for its network");
    }
  }

  std::unique_ptr<mnl_socket, int (*)(mnl_socket*)> socket_;
  unsigned sequence_ = 0;
};

// ---- Settings -----------------------------------------------------------------------------------

std::optional<std::string> setting(const std::string& path) {
  std::ifstream file(path);
  std::string value;
  if (!std::getline(file, value)) return std::nullopt;
  return value;
}

std::map<std::string, std::string> settings() {
  std::map<std::string, std::string> values;
  const auto add = [&](const fs::path& path) {
    if (std::ranges::count(kOrders, path.filename().string())) return;
    if (auto value = setting(path)) values[path.string().substr(strlen(kSettings))] = *value;
  };
  for (const char* part : kOwnSettings) {
    std::error_code failed;
    const fs::path path = std::string(kSettings) + part;
    if (fs::is_regular_file(path, failed)) add(path);
    for (fs::recursive_directory_iterator entry(path, failed), end; !failed && entry != end;
         entry.increment(failed))
      if (entry->is_regular_file(failed)) add(entry->path());
  }
  return values;
}

// What is said of all links changes each, and that of a link is its own: so those come first.
int order_of(const std::string& name) {
  if (name.find("/all/") != name.npos) return 0;
  return name.find("/default/") != name.npos ? 1 : 2;
}

// Nothing else is written to, whatever an image says.
bool is_own_setting(const std::string& name) {
  return name.find("..") == name.npos && std::ranges::any_of(kOwnSettings, [&](const char* part) {
           return name.starts_with(part);
         });
}

// Of groups (icmp(7)): no group is in them, whatever numbers a user namespace shows.
bool is_empty_range(const std::string& name, const std::string& value) {
  const auto numbers = split_blank(value);
  if (!name.ends_with("/ping_group_range") || numbers.size() != 2) return false;
  const auto first = parse_number<uint32_t>(numbers[0]), last = parse_number<uint32_t>(numbers[1]);
  return first && last && *first > *last;
}

// Returns what they are instead.
std::vector<std::string> set_settings(const std::map<std::string, std::string>& wanted) {
  std::vector<std::string> notes;
  for (const int order : {0, 1, 2})
    for (const auto& [name, value] : wanted) {
      if (!is_own_setting(name)) throw Error("cannot set " + printable(name), "it is no network's");
      const std::string path = kSettings + name;
      const auto now = order_of(name) == order ? setting(path) : std::nullopt;
      if (!now || *now == value) continue;
      if (is_empty_range(name, value) && is_empty_range(name, *now)) continue;
      if (!(std::ofstream(path) << value << std::flush))
        notes.push_back(
            fmt::format("{} is \"{}\" instead of \"{}\"", printable(path), *now, value));
    }
  return notes;
}

// ---- Making links -------------------------------------------------------------------------------

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

class Links {
 public:
  Links(Route& route, const NetworkContents& contents, const std::vector<OutsideEnd>& ends,
        const Fd& outside, std::vector<std::string>& notes)
      : route_(route), contents_(contents), ends_(ends), outside_(outside), notes_(notes) {}

  // Masters before who belongs to them; nothing is up before all are there.
  void make() {
    for (const std::string& link : contents_.links) make(link);
    for (const std::string& link : contents_.links) join(link);
  }
  // Nobody is asked whether they have the addresses, too: until that had ended, they could not be
  // used.
  void start() {
    for (const std::string& link : contents_.links) {
      const LinkWords words = describe_link(link);
      if (!words.is_up) continue;
      const std::string asks = fmt::format("{}ipv6/conf/{}/accept_dad", kSettings, words.name);
      if (setting(asks)) std::ofstream(asks) << "0" << std::flush;
      start(words);
    }
  }

 private:
  void make(const std::string& link) {
    const LinkWords words = describe_link(link);
    if (std::ranges::count(kEverywhere, words.name) || made_.contains(words.index)) return;
    made_.insert(words.index);
    const std::string* peer = words.kind == "veth" ? peer_of(words) : nullptr;
    const OutsideEnd* end = words.peer_is_outside ? end_of(words.index) : nullptr;
    const bool done = route_.change(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, [&](nlmsghdr* request) {
      put_link(request, link, words);
      nlattr* info = mnl_attr_nest_start(request, IFLA_LINKINFO);
      mnl_attr_put_strz(request, IFLA_INFO_KIND, words.kind.c_str());
      nlattr* data = mnl_attr_nest_start(request, IFLA_INFO_DATA);
      if (words.kind == "bridge") put_bridge(request, link);
      if (words.kind == "veth") put_peer(request, words, peer, end);
      mnl_attr_nest_end(request, data);
      mnl_attr_nest_end(request, info);
    });
    if (!done) throw_errno("cannot make the link {}", printable(words.name));
    if (peer) made_.insert(words.peer);
    if (words.kind == "veth" && !peer && !end)
      notes_.push_back(
          fmt::format("the other end of link {} was outside: it is {} in here, and down",
                      printable(words.name), printable(stand_in_for(words))));
  }

  static std::string stand_in_for(const LinkWords& words) {
    return fmt::format("gone{}", words.index);
  }

  const std::string* peer_of(const LinkWords& words) const {
    if (words.peer_is_outside) return nullptr;
    const auto is_it = [&](const std::string& link) {
      const LinkWords other = describe_link(link);
      return other.index == words.peer && other.kind == "veth";
    };
    const auto found = std::ranges::find_if(contents_.links, is_it);
    return found == contents_.links.end() ? nullptr : &*found;
  }

  const OutsideEnd* end_of(uint32_t index) const {
    const auto found = std::ranges::find(ends_, index, &OutsideEnd::inside);
    return found == ends_.end() || !outside_.valid() ? nullptr : &*found;
  }

  static void put_header(nlmsghdr* request, uint32_t index) {
    auto* header = static_cast<ifinfomsg*>(mnl_nlmsg_put_extra_header(request, sizeof(ifinfomsg)));
    header->ifi_index = static_cast<int>(index);
  }

  static void put_link(nlmsghdr* request, const std::string& link, const LinkWords& words) {
    put_header(request, words.index);
    mnl_attr_put_strz(request, IFLA_IFNAME, words.name.c_str());
    for (const Attribute& attribute : attributes_of<ifinfomsg>(link))
      if (std::ranges::count(kLinkSettings, attribute.type) && !attribute.value.empty())
        mnl_attr_put(request, attribute.type, attribute.value.size(), attribute.value.data());
  }

  static void put_bridge(nlmsghdr* request, const std::string& link) {
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

  // Two ends are made at once.
  void put_peer(nlmsghdr* request, const LinkWords& words, const std::string* peer,
                const OutsideEnd* end) {
    nlattr* nest = mnl_attr_nest_start(request, VETH_INFO_PEER);
    if (peer) {
      put_link(request, *peer, describe_link(*peer));
    } else {
      put_header(request, 0);
      mnl_attr_put_strz(request, IFLA_IFNAME,
                        end ? end->name.c_str() : stand_in_for(words).c_str());
      if (end) mnl_attr_put_u32(request, IFLA_NET_NS_FD, static_cast<uint32_t>(outside_.get()));
    }
    mnl_attr_nest_end(request, nest);
  }

  // Second ends do not get an alias when they are made.
  void join(const std::string& link) {
    const LinkWords words = describe_link(link);
    const auto attributes = attributes_of<ifinfomsg>(link);
    const Attribute* alias = find(attributes, IFLA_IFALIAS);
    if (!words.master && !alias) return;
    const bool done = route_.change(RTM_SETLINK, 0, [&](nlmsghdr* request) {
      put_header(request, words.index);
      if (words.master) mnl_attr_put_u32(request, IFLA_MASTER, words.master);
      if (alias) mnl_attr_put(request, IFLA_IFALIAS, alias->value.size(), alias->value.data());
    });
    if (!done)
      notes_.push_back(fmt::format("link {} is not in its bridge: {}", printable(words.name),
                                   errno_text(errno)));
  }

  void start(const LinkWords& words) {
    const bool done = route_.change(RTM_SETLINK, 0, [&](nlmsghdr* request) {
      auto* header =
          static_cast<ifinfomsg*>(mnl_nlmsg_put_extra_header(request, sizeof(ifinfomsg)));
      header->ifi_index = static_cast<int>(words.index);
      header->ifi_flags = header->ifi_change = IFF_UP;
    });
    if (!done)
      notes_.push_back(
          fmt::format("link {} stays down: {}", printable(words.name), errno_text(errno)));
  }

  Route& route_;
  const NetworkContents& contents_;
  const std::vector<OutsideEnd>& ends_;
  const Fd& outside_;
  std::vector<std::string>& notes_;
  std::set<uint32_t> made_;  // by index
};

// ---- Addresses, routes, rules -------------------------------------------------------------------

// Whether it tells of the same address.
bool is_same_address(const std::string& a, const std::string& b) {
  const auto one = header_of<ifaddrmsg>(a), other = header_of<ifaddrmsg>(b);
  const auto of_one = attributes_of<ifaddrmsg>(a), of_other = attributes_of<ifaddrmsg>(b);
  const auto is_equal = [&](uint16_t type) {
    const Attribute *first = find(of_one, type), *second = find(of_other, type);
    return (first ? first->value : "") == (second ? second->value : "");
  };
  return one.ifa_index == other.ifa_index && one.ifa_prefixlen == other.ifa_prefixlen &&
         is_equal(IFA_ADDRESS) && is_equal(IFA_LOCAL);
}

// Without what is left of the kernel's search for others that have it.
std::string settled(const std::string& message) {
  std::string out = message;
  constexpr uint32_t kStates = IFA_F_TENTATIVE | IFA_F_DADFAILED | IFA_F_OPTIMISTIC;
  auto header = header_of<ifaddrmsg>(message);
  header.ifa_flags = static_cast<uint8_t>(header.ifa_flags & ~kStates);
  std::memcpy(out.data(), &header, sizeof header);
  for (const Attribute& attribute : attributes_of<ifaddrmsg>(message)) {
    if (attribute.type != IFA_FLAGS) continue;
    const uint32_t flags = attribute.as<uint32_t>() & ~kStates;
    std::memcpy(out.data() + (attribute.value.data() - message.data()), &flags, sizeof flags);
  }
  return out;
}

// Those that links have by themselves are there already.
void set_addresses(Route& route, const std::vector<std::string>& wanted,
                   std::vector<std::string>& notes) {
  const std::vector<std::string> there = route.dump(RTM_GETADDR, AF_UNSPEC);
  for (const std::string& address : wanted) {
    const bool is_there = std::ranges::any_of(
        there, [&](const std::string& other) { return is_same_address(address, other); });
    if (!is_there && !route.replay(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, settled(address)) &&
        errno != EEXIST)
      notes.push_back("an address of the tree's network is not there: " + errno_text(errno));
  }
}

bool is_tentative(const std::string& address) {
  const auto attributes = attributes_of<ifaddrmsg>(address);
  const Attribute* flags = find(attributes, IFA_FLAGS);
  return flags && (flags->as<uint32_t>() & IFA_F_TENTATIVE);
}

// The kernel finds out later that nobody is to be asked for an address, by a setting that we are
// about to put back (addrconf_dad_begin(), net/ipv6/addrconf.c).
void await_addresses(Route& route, const std::vector<std::string>& wanted) {
  const auto is_awaited = [&](const std::string& address) {
    return is_tentative(address) && std::ranges::any_of(wanted, [&](const std::string& other) {
             return is_same_address(address, other) && !is_tentative(other);
           });
  };
  constexpr int kTries = 100;
  for (int i = 0; i < kTries; ++i) {
    if (std::ranges::none_of(route.dump(RTM_GETADDR, AF_INET6), is_awaited)) return;
    ::usleep(10'000);
  }
}

// Those of the kernel come with the addresses; clones are what it has remembered.
bool is_made_by_kernel(const std::string& route) {
  const auto header = header_of<rtmsg>(route);
  return header.rtm_protocol == RTPROT_KERNEL || (header.rtm_flags & RTM_F_CLONED);
}

// What the kernel counts is no part of a route.
std::string route_to_set(const std::string& message) {
  std::string out = message.substr(0, NLMSG_ALIGN(sizeof(rtmsg)));
  auto header = header_of<rtmsg>(message);
  header.rtm_flags &= ~unsigned{RTNH_F_DEAD | RTNH_F_LINKDOWN};
  std::memcpy(out.data(), &header, sizeof header);
  for (const Attribute& attribute : attributes_of<rtmsg>(message)) {
    if (attribute.type == RTA_CACHEINFO) continue;
    nlattr head{static_cast<uint16_t>(sizeof(nlattr) + attribute.value.size()), attribute.type};
    out.append(reinterpret_cast<const char*>(&head), sizeof head).append(attribute.value);
    out.resize(NLMSG_ALIGN(out.size()));
  }
  return out;
}

// A route through a gateway needs the one that leads to the gateway.
void set_routes(Route& route, const std::vector<std::string>& wanted,
                std::vector<std::string>& notes) {
  std::vector<std::string> left;
  std::ranges::copy_if(wanted, std::back_inserter(left), std::not_fn(is_made_by_kernel));
  std::string why;
  for (size_t before = 0; !left.empty() && before != left.size();) {
    before = left.size();
    std::erase_if(left, [&](const std::string& message) {
      constexpr uint16_t kFlags = NLM_F_CREATE | NLM_F_APPEND;
      const bool done =
          route.replay(RTM_NEWROUTE, kFlags, route_to_set(message)) || errno == EEXIST;
      if (!done) why = errno_text(errno);
      return done;
    });
  }
  if (!left.empty())
    notes.push_back(
        fmt::format("{} routes of the tree's network are not there: {}", left.size(), why));
}

void set_rules(Route& route, const std::vector<std::string>& wanted,
               std::vector<std::string>& notes) {
  const auto rules = [&] {
    std::vector<std::string> all = route.dump(RTM_GETRULE, AF_INET);
    for (std::string& rule : route.dump(RTM_GETRULE, AF_INET6)) all.push_back(std::move(rule));
    return all;
  };
  for (const std::string& rule : rules())
    if (!std::ranges::count(wanted, rule)) route.replay(RTM_DELRULE, 0, rule);
  const std::vector<std::string> there = rules();
  for (const std::string& rule : wanted)
    if (!std::ranges::count(there, rule) &&
        !route.replay(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, rule))
      notes.push_back("a rule for routes is not there: " + errno_text(errno));
}

// What was found out by asking is found out again.
void set_neighbours(Route& route, const std::vector<std::string>& wanted,
                    std::vector<std::string>& notes) {
  for (const std::string& message : wanted) {
    const auto header = header_of<ndmsg>(message);
    if (header.ndm_family == AF_BRIDGE || !(header.ndm_state & NUD_PERMANENT)) continue;
    if (!route.replay(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, message))
      notes.push_back("an entry of the table of neighbours is not there: " + errno_text(errno));
  }
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
  words.peer_is_outside = find(attributes, IFLA_LINK_NETNSID) != nullptr;
  return words;
}

bool can_make(const LinkWords& link) {
  return std::ranges::count(kEverywhere, link.name) > 0 ||
         std::ranges::count(kKinds, link.kind) > 0;
}

std::vector<std::string> network_links() {
  return Route().dump(RTM_GETLINK, AF_UNSPEC);
}

NetworkContents network_contents() {
  NetworkContents contents;
  Route route;
  const auto add = [&](std::vector<std::string>& to, uint16_t type, uint8_t family) {
    for (std::string& message : route.dump(type, family)) to.push_back(std::move(message));
  };
  add(contents.links, RTM_GETLINK, AF_UNSPEC);
  add(contents.addresses, RTM_GETADDR, AF_UNSPEC);
  for (const uint8_t family : {AF_INET, AF_INET6}) {
    add(contents.routes, RTM_GETROUTE, family);
    add(contents.rules, RTM_GETRULE, family);
  }
  add(contents.neighbours, RTM_GETNEIGH, AF_UNSPEC);
  return contents;
}

void read_settings_and_filters(NetworkContents& contents) {
  contents.settings = settings();
  std::tie(contents.filters, contents.why_no_filters) = list_filters();
}

std::vector<std::string> make_network(const NetworkContents& contents,
                                      const std::vector<OutsideEnd>& ends, const Fd& outside) {
  std::vector<std::string> notes;
  Route route;
  Links links(route, contents, ends, outside, notes);
  links.make();
  set_settings(contents.settings);
  links.start();
  set_addresses(route, contents.addresses, notes);
  set_rules(route, contents.rules, notes);
  set_routes(route, contents.routes, notes);
  set_neighbours(route, contents.neighbours, notes);
  await_addresses(route, contents.addresses);
  for (std::string& note : set_settings(contents.settings)) notes.push_back(std::move(note));
  if (!contents.filters.empty())
    if (const std::string why = set_filters(contents.filters); !why.empty())
      notes.push_back("the filters of packets (nftables) are not there: " + why);
  return notes;
}

std::vector<std::string> connect_ends(const std::vector<OutsideEnd>& ends) {
  std::vector<std::string> notes;
  if (ends.empty()) return notes;
  Route route;
  for (const OutsideEnd& end : ends) {
    const unsigned index = ::if_nametoindex(end.name.c_str()),
                   bridge = end.bridge.empty() ? 0 : ::if_nametoindex(end.bridge.c_str());
    if (!end.bridge.empty() && !bridge)
      notes.push_back(fmt::format("link {} is in no bridge: {} is not there", printable(end.name),
                                  printable(end.bridge)));
    const bool done = route.change(RTM_SETLINK, 0, [&](nlmsghdr* request) {
      auto* header =
          static_cast<ifinfomsg*>(mnl_nlmsg_put_extra_header(request, sizeof(ifinfomsg)));
      header->ifi_index = static_cast<int>(index);
      if (end.is_up) header->ifi_flags = header->ifi_change = IFF_UP;
      if (bridge) mnl_attr_put_u32(request, IFLA_MASTER, bridge);
    });
    if (!done)
      notes.push_back(
          fmt::format("link {} is not connected: {}", printable(end.name), errno_text(errno)));
  }
  return notes;
}

}  // namespace snapgdb
