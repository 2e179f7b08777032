#include "core/linux/multicast.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#include <cstring>
#include <sstream>

#include "core/base/strings.h"

namespace snapgdb {
namespace {

constexpr size_t kHeader = GROUP_FILTER_SIZE(0);

int level_of(const sockaddr_storage& group) {
  return group.ss_family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6;
}

// "1\tlo        :     1      V3", and below it each of its groups: "\t\t\t\t010000E0     1 …", as
// the kernel has the number in memory.
void add_groups_ipv4(const std::string& table, std::vector<group_req>& groups) {
  uint32_t interface = 0;
  std::istringstream lines(table);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    if (!line.starts_with('\t')) {
      if (!(words >> interface)) interface = 0;  // the heading
      continue;
    }
    group_req group{};
    group.gr_interface = interface;
    auto& address = reinterpret_cast<sockaddr_in&>(group.gr_group);
    address.sin_family = AF_INET;
    if (words >> std::hex >> address.sin_addr.s_addr) groups.push_back(group);
  }
}

// "1    lo              ff020000000000000000000000000001     1 0000000C 0"
void add_groups_ipv6(const std::string& table, std::vector<group_req>& groups) {
  std::istringstream lines(table);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string name, digits;
    group_req group{};
    auto& address = reinterpret_cast<sockaddr_in6&>(group.gr_group);
    if (!(words >> group.gr_interface >> name >> digits) ||
        digits.size() != 2 * sizeof address.sin6_addr)
      continue;
    address.sin6_family = AF_INET6;
    for (size_t i = 0; i < sizeof address.sin6_addr; ++i)
      address.sin6_addr.s6_addr[i] =
          static_cast<uint8_t>(std::stoul(digits.substr(2 * i, 2), nullptr, 16));
    groups.push_back(group);
  }
}

}  // namespace

std::vector<group_req> multicast_groups(const ProcDirectory& task) {
  std::vector<group_req> groups;
  add_groups_ipv4(task.read_if_allowed("net/igmp").value_or(""), groups);
  add_groups_ipv6(task.read_if_allowed("net/igmp6").value_or(""), groups);
  return groups;
}

std::vector<std::string> multicast_memberships(const Fd& socket,
                                               const std::vector<group_req>& groups) {
  constexpr size_t kSources = 64;
  std::vector<std::string> memberships;
  for (const group_req& group : groups) {
    group_filter asked{};
    asked.gf_interface = group.gr_interface;
    asked.gf_group = group.gr_group;
    // It is told how many there are; the room is made for so many then.
    for (uint32_t room = kSources;; room = asked.gf_numsrc) {
      asked.gf_numsrc = room;
      std::string filter(GROUP_FILTER_SIZE(room), '\0');
      std::memcpy(filter.data(), &asked, kHeader);
      auto size = static_cast<socklen_t>(filter.size());
      if (::getsockopt(socket.get(), level_of(group.gr_group), MCAST_MSFILTER, filter.data(),
                       &size) != 0)
        break;  // it is no member
      std::memcpy(&asked, filter.data(), kHeader);
      if (asked.gf_numsrc > room) continue;
      filter.resize(GROUP_FILTER_SIZE(asked.gf_numsrc));
      memberships.push_back(std::move(filter));
      break;
    }
  }
  return memberships;
}

bool join_again(const Fd& socket, const std::string& filter, uint32_t interface) {
  group_filter wanted{};
  if (filter.size() < kHeader) return errno = EINVAL, false;
  std::memcpy(&wanted, filter.data(), kHeader);
  if (interface) wanted.gf_interface = interface;
  const int level = level_of(wanted.gf_group);
  const group_req group{.gr_interface = wanted.gf_interface, .gr_group = wanted.gf_group};
  if (::setsockopt(socket.get(), level, MCAST_JOIN_GROUP, &group, sizeof group) != 0) return false;
  if (wanted.gf_fmode == MCAST_EXCLUDE && wanted.gf_numsrc == 0) return true;
  std::string here = filter;
  std::memcpy(here.data(), &wanted, kHeader);
  return ::setsockopt(socket.get(), level, MCAST_MSFILTER, here.data(),
                      static_cast<socklen_t>(here.size())) == 0;
}

}  // namespace snapgdb
