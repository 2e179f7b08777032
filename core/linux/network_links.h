#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/linux/route_netlink.h"

// Links of a network namespace: devices that are made, not found. Messages are of RTM_GETLINK.
namespace snapgdb {

// A link, in words.
struct LinkWords {
  std::string name, kind;  // "veth0"; "veth", "" of devices
  uint32_t index = 0;
  uint32_t peer = 0;             // of veth: the other end's index, in its own namespace; 0: unknown
  bool peer_is_outside = false;  // in another network namespace
  int32_t peer_network = -1;     // the number of that one, as of RouteSocket::number_of()
  uint32_t master = 0;           // index of the bridge that it belongs to
  bool is_up = false;
};
LinkWords describe_link(std::string_view message);
// Why make_links() does not make it; "" if it does, or if it is there by itself.
std::string why_not_made(const LinkWords& link);
// Of the caller's network namespace. Throws SystemError.
std::vector<std::string> network_links();

// The end, outside of what is restored, of a pair of links.
struct OutsideEnd {
  uint32_t inside = 0;  // the index of the other end
  std::string name, bridge;
  bool is_up = false;
};

// The same in another network namespace that is restored.
struct PairedEnd {
  uint32_t inside = 0;
  std::string link;            // its message
  std::optional<int> network;  // a descriptor of where it is; nullopt: the pair is made from there
};

struct OtherEnds {
  std::vector<OutsideEnd> outside;
  int outside_network = -1;  // a descriptor of where those are to be
  std::vector<PairedEnd> paired;
};

// Makes them in the caller's network namespace, which has nothing but its loopback device yet, with
// their other ends. Returns what is otherwise than it was. Throws SystemError: one cannot be made.
std::vector<std::string> make_links(const std::vector<std::string>& links, const OtherEnds& ends);
// When all are there, also those that come from elsewhere: has them in their bridges.
void join_links(RouteSocket& route, const std::vector<std::string>& links,
                std::vector<std::string>& notes);
// In their bridges: has those up that were.
void start_links(RouteSocket& route, const std::vector<std::string>& links,
                 std::vector<std::string>& notes);
// Outside: has ends up, and in their bridges, as they were. Returns what is otherwise.
std::vector<std::string> connect_ends(const std::vector<OutsideEnd>& ends);

}  // namespace snapgdb
