#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "core/base/fd.h"

namespace snapgdb {

// An address of AF_INET or AF_INET6 with its port. An IPv4 address is the same whichever domain it
// is written in (::ffff:1.2.3.4).
struct NetworkAddress {
  std::array<uint8_t, 16> bytes{};
  uint16_t port = 0;

  // `address`: struct sockaddr_in or sockaddr_in6; nullopt: it is none.
  static std::optional<NetworkAddress> of(const std::string& address);
  bool is_ipv4() const;
  bool is_any() const;       // 0.0.0.0, ::
  bool is_loopback() const;  // 127.0.0.0/8, ::1
  bool is_multicast() const;
  std::string host() const;  // "127.0.0.1", "::1"
  auto operator<=>(const NetworkAddress&) const = default;
};

// Makes this host have the address, on its loopback device; for a network of one's own. Throws
// SystemError.
void add_local_address(const NetworkAddress& address);

// Packets that seem to come from `from`, for a socket of this host; past what locks the network
// (network_lock.h). Take CAP_NET_RAW. Throw SystemError.
struct PacketMarks {
  uint8_t traffic_class = 0;  // IP_TOS, IPV6_TCLASS
  uint8_t hop_limit = 64;     // as it arrives
};
void inject_datagram(const NetworkAddress& from, const NetworkAddress& to,
                     const std::string& content, bool is_lite, const PacketMarks& marks);
// The end of what the other end of a connection sends.
struct TcpNumbers {
  uint32_t sequence = 0, acknowledged = 0;
};
void inject_end(const NetworkAddress& from, const NetworkAddress& to, const TcpNumbers& numbers);
// It breaks the connection off.
void inject_reset(const NetworkAddress& from, const NetworkAddress& to, const TcpNumbers& numbers);

// Of the packets that pass the lock.
inline constexpr uint32_t kPassingMark = 0x736e6170;

}  // namespace snapgdb
