#include "core/linux/inet_options.h"

#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/netlink.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <cstring>

// Newer than the headers.
#ifndef IP_LOCAL_PORT_RANGE
#define IP_LOCAL_PORT_RANGE 51  // Linux 6.3
#endif
#ifndef TCP_RTO_MAX_MS
#define TCP_RTO_MAX_MS 44     // 6.15
#define TCP_RTO_MIN_US 45     // 6.16
#define TCP_DELACK_MAX_US 46  // 6.16
#endif
#ifndef SOL_NETLINK
#define SOL_NETLINK 270
#endif
#ifndef SOL_PACKET
#define SOL_PACKET 263
#endif
#ifndef IPPROTO_ICMPV6
#define IPPROTO_ICMPV6 58
#endif

namespace snapgdb {
namespace {

// Connections tell of some, inherited from who listened, that they cannot be given and never use.
bool set_multicast(int socket, const SocketOption& option, std::span<const std::byte> value) {
  int type = 0;
  socklen_t size = sizeof type;
  return (::getsockopt(socket, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM) ||
         SocketOption::set_as_read(socket, option, value);
}

// Of a connection, also one that has ended, it is what both ends have agreed on, and may be more
// or less than can be demanded.
ssize_t read_segment_size(int socket, const SocketOption& option, std::span<std::byte> value) {
  constexpr int kSmallest = 88, kLargest = 32767;  // TCP_MIN_MSS, MAX_TCP_WINDOW
  sockaddr_storage peer{};
  socklen_t size = sizeof peer;
  if (::getpeername(socket, reinterpret_cast<sockaddr*>(&peer), &size) == 0) return -1;
  const ssize_t read = SocketOption::read_plainly(socket, option, value);
  int bytes = 0;
  if (read == sizeof bytes) std::memcpy(&bytes, value.data(), sizeof bytes);
  return bytes < kSmallest || bytes > kLargest ? -1 : read;
}

#define SNAPGDB_IP(name) IPPROTO_IP, name, #name
#define SNAPGDB_IPV6(name) IPPROTO_IPV6, name, #name
#define SNAPGDB_TCP(name) IPPROTO_TCP, name, #name
#define SNAPGDB_UDP(name) IPPROTO_UDP, name, #name
#define SNAPGDB_NETLINK(name) SOL_NETLINK, name, #name
#define SNAPGDB_PACKET(name) SOL_PACKET, name, #name
constexpr size_t kMaxHeader = 2040;  // of IPv6, with extensions: 255 units of 8 bytes
// What decides on the addresses that a socket may have comes first, in its domain.
constexpr SocketOption kNetwork[] = {
    {SNAPGDB_IP(IP_FREEBIND)},
    {SNAPGDB_IP(IP_TRANSPARENT)},
    {SNAPGDB_IP(IP_BIND_ADDRESS_NO_PORT)},
    {SNAPGDB_IP(IP_LOCAL_PORT_RANGE)},
    {SNAPGDB_IP(IP_TOS)},
    {SNAPGDB_IP(IP_TTL)},
    {SNAPGDB_IP(IP_MINTTL)},
    {SNAPGDB_IP(IP_HDRINCL)},
    {SNAPGDB_IP(IP_NODEFRAG)},
    {SNAPGDB_IP(IP_OPTIONS), 40},
    {SNAPGDB_IP(IP_RECVOPTS)},
    {SNAPGDB_IP(IP_RETOPTS)},
    {SNAPGDB_IP(IP_PKTINFO)},
    {SNAPGDB_IP(IP_MTU_DISCOVER)},
    {SNAPGDB_IP(IP_RECVERR)},
    {SNAPGDB_IP(IP_RECVERR_RFC4884)},
    {SNAPGDB_IP(IP_RECVTTL)},
    {SNAPGDB_IP(IP_RECVTOS)},
    {SNAPGDB_IP(IP_RECVORIGDSTADDR)},
    {SNAPGDB_IP(IP_RECVFRAGSIZE)},
    {SNAPGDB_IP(IP_PASSSEC)},
    {SNAPGDB_IP(IP_CHECKSUM)},
    {SNAPGDB_IP(IP_MULTICAST_TTL), sizeof(int), set_multicast},
    {SNAPGDB_IP(IP_MULTICAST_LOOP), sizeof(int), set_multicast},
    {SNAPGDB_IP(IP_MULTICAST_ALL)},
    {SNAPGDB_IP(IP_MULTICAST_IF), sizeof(int), set_multicast},
    {SNAPGDB_IP(IP_UNICAST_IF)},
    {SNAPGDB_IPV6(IPV6_V6ONLY)},
    {SNAPGDB_IPV6(IPV6_FREEBIND)},
    {SNAPGDB_IPV6(IPV6_TRANSPARENT)},
    {SNAPGDB_IPV6(IPV6_TCLASS)},
    {SNAPGDB_IPV6(IPV6_UNICAST_HOPS)},
    {SNAPGDB_IPV6(IPV6_MINHOPCOUNT)},
    {SNAPGDB_IPV6(IPV6_HDRINCL)},
    {SNAPGDB_IPV6(IPV6_CHECKSUM)},
    {SNAPGDB_IPV6(IPV6_DONTFRAG)},
    {SNAPGDB_IPV6(IPV6_AUTOFLOWLABEL)},
    {SNAPGDB_IPV6(IPV6_FLOWINFO_SEND)},
    {SNAPGDB_IPV6(IPV6_FLOWINFO)},
    {SNAPGDB_IPV6(IPV6_ADDR_PREFERENCES)},
    {SNAPGDB_IPV6(IPV6_MTU_DISCOVER)},
    {SNAPGDB_IPV6(IPV6_RECVERR)},
    {SNAPGDB_IPV6(IPV6_RECVERR_RFC4884)},
    {SNAPGDB_IPV6(IPV6_RECVPKTINFO)},
    {SNAPGDB_IPV6(IPV6_RECVHOPLIMIT)},
    {SNAPGDB_IPV6(IPV6_RECVRTHDR)},
    {SNAPGDB_IPV6(IPV6_RECVHOPOPTS)},
    {SNAPGDB_IPV6(IPV6_RECVDSTOPTS)},
    {SNAPGDB_IPV6(IPV6_RECVTCLASS)},
    {SNAPGDB_IPV6(IPV6_RECVPATHMTU)},
    {SNAPGDB_IPV6(IPV6_RECVORIGDSTADDR)},
    {SNAPGDB_IPV6(IPV6_RECVFRAGSIZE)},
    {SNAPGDB_IPV6(IPV6_MULTICAST_HOPS), sizeof(int), set_multicast},
    {SNAPGDB_IPV6(IPV6_MULTICAST_LOOP), sizeof(int), set_multicast},
    {SNAPGDB_IPV6(IPV6_MULTICAST_ALL)},
    {SNAPGDB_IPV6(IPV6_MULTICAST_IF), sizeof(int), set_multicast},
    {SNAPGDB_IPV6(IPV6_UNICAST_IF)},
    {SNAPGDB_IPV6(IPV6_HOPOPTS), kMaxHeader},
    {SNAPGDB_IPV6(IPV6_RTHDRDSTOPTS), kMaxHeader},
    {SNAPGDB_IPV6(IPV6_RTHDR), kMaxHeader},
    {SNAPGDB_IPV6(IPV6_DSTOPTS), kMaxHeader},
    {IPPROTO_RAW, ICMP_FILTER, "ICMP_FILTER", sizeof(icmp_filter)},
    {IPPROTO_ICMPV6, ICMPV6_FILTER, "ICMPV6_FILTER", sizeof(icmp6_filter)},
    {SNAPGDB_TCP(TCP_CONGESTION), 16},  // TCP_CA_NAME_MAX
    {SNAPGDB_TCP(TCP_NODELAY)},
    {SNAPGDB_TCP(TCP_CORK)},
    {SNAPGDB_TCP(TCP_KEEPIDLE)},
    {SNAPGDB_TCP(TCP_KEEPINTVL)},
    {SNAPGDB_TCP(TCP_KEEPCNT)},
    {SNAPGDB_TCP(TCP_SYNCNT)},
    {SNAPGDB_TCP(TCP_LINGER2)},
    {SNAPGDB_TCP(TCP_DEFER_ACCEPT)},
    {SNAPGDB_TCP(TCP_USER_TIMEOUT)},
    {SNAPGDB_TCP(TCP_THIN_LINEAR_TIMEOUTS)},
    {SNAPGDB_TCP(TCP_MAXSEG), sizeof(int), SocketOption::set_as_read, read_segment_size},
    {SNAPGDB_TCP(TCP_WINDOW_CLAMP)},
    {SNAPGDB_TCP(TCP_FASTOPEN)},
    {SNAPGDB_TCP(TCP_FASTOPEN_CONNECT)},
    {SNAPGDB_TCP(TCP_FASTOPEN_NO_COOKIE)},
    {SNAPGDB_TCP(TCP_SAVE_SYN)},
    {SNAPGDB_TCP(TCP_NOTSENT_LOWAT)},
    {SNAPGDB_TCP(TCP_INQ)},
    {SNAPGDB_TCP(TCP_TX_DELAY)},
    {SNAPGDB_TCP(TCP_RTO_MAX_MS)},
    {SNAPGDB_TCP(TCP_RTO_MIN_US)},
    {SNAPGDB_TCP(TCP_DELACK_MAX_US)},
    {SNAPGDB_UDP(UDP_CORK)},
    {SNAPGDB_UDP(UDP_ENCAP)},
    {SNAPGDB_UDP(UDP_NO_CHECK6_TX)},
    {SNAPGDB_UDP(UDP_NO_CHECK6_RX)},
    {SNAPGDB_UDP(UDP_SEGMENT)},
    {SNAPGDB_UDP(UDP_GRO)},
    {IPPROTO_UDPLITE, 10, "UDPLITE_SEND_CSCOV"},  // net/udplite.h
    {IPPROTO_UDPLITE, 11, "UDPLITE_RECV_CSCOV"},
    {SNAPGDB_NETLINK(NETLINK_PKTINFO)},
    {SNAPGDB_NETLINK(NETLINK_BROADCAST_ERROR)},
    {SNAPGDB_NETLINK(NETLINK_NO_ENOBUFS)},
    {SNAPGDB_NETLINK(NETLINK_LISTEN_ALL_NSID)},
    {SNAPGDB_NETLINK(NETLINK_CAP_ACK)},
    {SNAPGDB_NETLINK(NETLINK_EXT_ACK)},
    {SNAPGDB_NETLINK(NETLINK_GET_STRICT_CHK)},
    {SNAPGDB_PACKET(PACKET_AUXDATA)},
    {SNAPGDB_PACKET(PACKET_ORIGDEV)},
    {SNAPGDB_PACKET(PACKET_VERSION)},
    {SNAPGDB_PACKET(PACKET_RESERVE)},
    {SNAPGDB_PACKET(PACKET_LOSS)},
    {SNAPGDB_PACKET(PACKET_VNET_HDR)},
    {SNAPGDB_PACKET(PACKET_TIMESTAMP)},
    {SNAPGDB_PACKET(PACKET_QDISC_BYPASS)},
    {SNAPGDB_PACKET(PACKET_IGNORE_OUTGOING)},
};
#undef SNAPGDB_IP
#undef SNAPGDB_IPV6
#undef SNAPGDB_TCP
#undef SNAPGDB_UDP
#undef SNAPGDB_NETLINK
#undef SNAPGDB_PACKET

}  // namespace

std::span<const SocketOption> network_options() {
  return kNetwork;
}

}  // namespace snapgdb
