#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/fd.h"

namespace snapgdb {

// What a network namespace holds but for sockets. Of rtnetlink(7): messages as the kernel gives
// them, from the type's own header (struct ifinfomsg, ifaddrmsg, …) on, with their attributes.
struct NetworkContents {
  std::vector<std::string> links, addresses, routes, rules, neighbours;
  std::map<std::string, std::string> settings;  // files below /proc/sys/net, with their values
  std::string filters;                          // a script for nft(8)
  std::string why_no_filters;                   // "": `filters` is all there is
};

// Of the caller's network namespace, but for settings and filters. Throws SystemError.
NetworkContents network_contents();
// These: hundreds of files, so tens of milliseconds.
void read_settings_and_filters(NetworkContents& contents);
// Only its links.
std::vector<std::string> network_links();

// A link, in words.
struct LinkWords {
  std::string name, kind;  // "veth0"; "veth", "" of devices
  uint32_t index = 0;
  uint32_t peer = 0;             // of veth: the other end's index, in its own namespace; 0: unknown
  bool peer_is_outside = false;  // in another network namespace
  uint32_t master = 0;           // index of the bridge that it belongs to
  bool is_up = false;
};
LinkWords describe_link(std::string_view message);
// Whether make_network() makes it, or it is there by itself.
bool can_make(const LinkWords& link);

// The end, outside of the namespace, of a pair of links.
struct OutsideEnd {
  uint32_t inside = 0;  // the index of the other end
  std::string name, bridge;
  bool is_up = false;
};

// Makes the caller's network namespace such a one; it has nothing but its loopback device yet.
// `ends`: to be put into `outside`, a network namespace. Returns what is otherwise than it was.
// Throws SystemError: a link cannot be made.
std::vector<std::string> make_network(const NetworkContents& contents,
                                      const std::vector<OutsideEnd>& ends, const Fd& outside);
// Outside: has ends up, and in their bridges, as they were. Returns what is otherwise.
std::vector<std::string> connect_ends(const std::vector<OutsideEnd>& ends);

}  // namespace snapgdb
