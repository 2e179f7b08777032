#include "core/linux/network.h"

#include <libmnl/libmnl.h>
#include <linux/fib_rules.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>

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
    if (attribute.type != IFA_FLAGS || attribute.value.size() != sizeof(uint32_t)) continue;
    const uint32_t flags = attribute.as<uint32_t>() & ~kStates;
    std::memcpy(out.data() + (attribute.value.data() - message.data()), &flags, sizeof flags);
  }
  return out;
}

// Those that links have by themselves are there already.
void set_addresses(RouteSocket& route, const std::vector<std::string>& wanted,
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
void await_addresses(RouteSocket& route, const std::vector<std::string>& wanted) {
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
void set_routes(RouteSocket& route, const std::vector<std::string>& wanted,
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

void set_rules(RouteSocket& route, const std::vector<std::string>& wanted,
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
void set_neighbours(RouteSocket& route, const std::vector<std::string>& wanted,
                    std::vector<std::string>& notes) {
  for (const std::string& message : wanted) {
    const auto header = header_of<ndmsg>(message);
    const bool is_lasting = header.ndm_state & NUD_PERMANENT || header.ndm_flags & NTF_PROXY;
    if (header.ndm_family == AF_BRIDGE || !is_lasting) continue;
    if (!route.replay(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, message))
      notes.push_back("an entry of the table of neighbours is not there: " + errno_text(errno));
  }
}

// Nobody is asked whether they have the addresses, too: until that had ended, they could not be
// used.
void spare_questions(const std::vector<std::string>& links) {
  for (const std::string& link : links) {
    const LinkWords words = describe_link(link);
    if (!words.is_up) continue;
    const std::string asks = fmt::format("{}ipv6/conf/{}/accept_dad", kSettings, words.name);
    if (setting(asks)) std::ofstream(asks) << "0" << std::flush;
  }
}

// Those that somebody has made have a number.
std::vector<std::string> queues_of(RouteSocket& route, const std::vector<std::string>& links) {
  std::vector<std::string> queues, all;
  try {
    all = route.dump(RTM_GETQDISC, AF_UNSPEC);
  } catch (const SystemError& error) {
    if (error.error_number() != EOPNOTSUPP) throw;  // the kernel has none at all
  }
  for (const std::string& message : all) {
    const auto header = header_of<tcmsg>(message);
    if (header.tcm_handle == 0) continue;
    const auto attributes = attributes_of<tcmsg>(message);
    const Attribute* kind = find(attributes, TCA_KIND);
    const auto link = std::ranges::find_if(links, [&](const std::string& other) {
      return describe_link(other).index == static_cast<uint32_t>(header.tcm_ifindex);
    });
    queues.push_back(fmt::format("{} of link {}", kind ? kind->text() : "one",
                                 link == links.end() ? "?" : describe_link(*link).name));
  }
  return queues;
}

}  // namespace

NetworkContents network_contents() {
  NetworkContents contents;
  RouteSocket route;
  const auto add = [&](std::vector<std::string>& to, uint16_t type, uint8_t family,
                       uint8_t flags = 0) {
    for (std::string& message : route.dump(type, family, flags)) to.push_back(std::move(message));
  };
  add(contents.links, RTM_GETLINK, AF_UNSPEC);
  add(contents.addresses, RTM_GETADDR, AF_UNSPEC);
  for (const uint8_t family : {AF_INET, AF_INET6}) {
    add(contents.routes, RTM_GETROUTE, family);
    add(contents.rules, RTM_GETRULE, family);
  }
  for (const uint8_t flags : {0, NTF_PROXY})
    add(contents.neighbours, RTM_GETNEIGH, AF_UNSPEC, flags);
  contents.queues = queues_of(route, contents.links);
  return contents;
}

bool is_address_of(std::string_view message, const NetworkAddress& host) {
  const auto attributes = attributes_of<ifaddrmsg>(message);
  const Attribute* told = find(attributes, IFA_LOCAL);
  if (!told) told = find(attributes, IFA_ADDRESS);
  if (!told) return false;
  const std::string_view bytes(reinterpret_cast<const char*>(host.bytes.data()), host.bytes.size());
  const bool is_ipv4 = header_of<ifaddrmsg>(message).ifa_family == AF_INET;
  return is_ipv4 == host.is_ipv4() && told->value == (is_ipv4 ? bytes.substr(12) : bytes);
}

void read_settings_and_filters(NetworkContents& contents) {
  contents.settings = settings();
  std::tie(contents.filters, contents.why_no_filters) = list_filters();
}

std::vector<std::string> fill_network(const NetworkContents& contents) {
  std::vector<std::string> notes;
  RouteSocket route;
  join_links(route, contents.links, notes);
  set_settings(contents.settings);
  spare_questions(contents.links);
  start_links(route, contents.links, notes);
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

}  // namespace snapgdb
