#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/linux/network_address.h"
#include "core/linux/network_links.h"

namespace snapgdb {

// What a network namespace holds but for sockets. Of rtnetlink(7): messages as the kernel gives
// them, from the type's own header (struct ifinfomsg, ifaddrmsg, …) on, with their attributes.
struct NetworkContents {
  std::vector<std::string> links, addresses, routes, rules, neighbours;
  std::map<std::string, std::string> settings;  // files below /proc/sys/net, with their values
  std::string filters;                          // a script for nft(8)
  std::string why_no_filters;                   // "": `filters` is all there is
  std::vector<std::string> queues;  // "tbf of link veth0": tc(8), what is not there by itself
};

// Of the caller's network namespace, but for settings and filters. Throws SystemError.
NetworkContents network_contents();
// Whether a message of NetworkContents.addresses tells of this one, whatever its port.
bool is_address_of(std::string_view message, const NetworkAddress& host);
// These: hundreds of files, so tens of milliseconds.
void read_settings_and_filters(NetworkContents& contents);

// When its links are there (make_links()), with both ends of each: makes the rest of the caller's
// network namespace such a one. Returns what is otherwise than it was. Throws SystemError.
std::vector<std::string> fill_network(const NetworkContents& contents);

}  // namespace snapgdb
