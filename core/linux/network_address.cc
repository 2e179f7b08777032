#include "core/linux/network_address.h"

#include <arpa/inet.h>
#include <linux/ipv6.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "core/base/strings.h"

namespace snapgdb {
namespace {

constexpr std::array<uint8_t, 12> kMapped{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

void put16(std::string& out, size_t value) {
  out += static_cast<char>(value >> 8);
  out += static_cast<char>(value);
}

void put32(std::string& out, uint32_t value) {
  put16(out, value >> 16);
  put16(out, value & 0xffff);
}

// RFC 1071
uint16_t checksum(std::string_view bytes) {
  uint64_t sum = 0;
  for (size_t i = 0; i < bytes.size(); ++i)
    sum += static_cast<uint64_t>(static_cast<uint8_t>(bytes[i])) << (i % 2 ? 0 : 8);
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

void overwrite16(std::string& out, size_t at, uint16_t value) {
  out[at] = static_cast<char>(value >> 8);
  out[at + 1] = static_cast<char>(value);
}

std::string_view raw(const NetworkAddress& address) {
  const std::string_view all(reinterpret_cast<const char*>(address.bytes.data()), 16);
  return address.is_ipv4() ? all.substr(kMapped.size()) : all;
}

// Of a segment, `at` whose start the sum belongs, with the addresses (RFC 768, 8200).
void add_checksum(const NetworkAddress& from, const NetworkAddress& to, uint8_t protocol,
                  std::string& segment, size_t at) {
  std::string summed(raw(from));
  summed += raw(to);
  put32(summed, static_cast<uint32_t>(segment.size()));
  put32(summed, protocol);
  summed += segment;
  const uint16_t sum = checksum(summed);
  overwrite16(segment, at, sum ? sum : 0xffff);
}

std::string ip_header(const NetworkAddress& from, const NetworkAddress& to, uint8_t protocol,
                      size_t size, const PacketMarks& marks) {
  std::string header;
  if (to.is_ipv4()) {
    constexpr size_t kHeader = 20;
    header += '\x45', header += static_cast<char>(marks.traffic_class);
    put16(header, kHeader + size);
    put32(header, 0);
    header += static_cast<char>(marks.hop_limit), header += static_cast<char>(protocol);
    put16(header, 0);
  } else {
    put32(header, uint32_t{6} << 28 | uint32_t{marks.traffic_class} << 20);
    put16(header, size);
    header += static_cast<char>(protocol), header += static_cast<char>(marks.hop_limit);
  }
  header += raw(from);
  header += raw(to);
  if (to.is_ipv4()) overwrite16(header, 10, checksum(header));
  return header;
}

// Without a port: raw(7).
void send_raw(const NetworkAddress& to, const std::string& packet) {
  const Fd socket(
      ::socket(to.is_ipv4() ? AF_INET : AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW));
  if (!socket.valid()) throw_errno("cannot make a raw socket");
  ::setsockopt(socket.get(), SOL_SOCKET, SO_MARK, &kPassingMark, sizeof kPassingMark);
  sockaddr_in in{};
  in.sin_family = AF_INET;
  std::memcpy(&in.sin_addr, to.bytes.data() + kMapped.size(), sizeof in.sin_addr);
  sockaddr_in6 in6{};
  in6.sin6_family = AF_INET6;
  std::memcpy(&in6.sin6_addr, to.bytes.data(), sizeof in6.sin6_addr);
  const bool four = to.is_ipv4();
  const auto* address =
      four ? reinterpret_cast<const sockaddr*>(&in) : reinterpret_cast<const sockaddr*>(&in6);
  const auto size = static_cast<socklen_t>(four ? sizeof in : sizeof in6);
  if (::sendto(socket.get(), packet.data(), packet.size(), 0, address, size) < 0)
    throw_errno("cannot send a packet to {} ourselves", to.host());
}

}  // namespace

std::optional<NetworkAddress> NetworkAddress::of(const std::string& address) {
  sockaddr_storage any{};
  std::memcpy(&any, address.data(), std::min(address.size(), sizeof any));
  NetworkAddress out;
  if (any.ss_family == AF_INET && address.size() >= sizeof(sockaddr_in)) {
    const auto& in = reinterpret_cast<const sockaddr_in&>(any);
    std::ranges::copy(kMapped, out.bytes.begin());
    std::memcpy(out.bytes.data() + kMapped.size(), &in.sin_addr, sizeof in.sin_addr);
    out.port = ntohs(in.sin_port);
  } else if (any.ss_family == AF_INET6 && address.size() >= sizeof(sockaddr_in6)) {
    const auto& in = reinterpret_cast<const sockaddr_in6&>(any);
    std::memcpy(out.bytes.data(), &in.sin6_addr, sizeof in.sin6_addr);
    out.port = ntohs(in.sin6_port);
  } else {
    return std::nullopt;
  }
  return out;
}

bool NetworkAddress::is_ipv4() const {
  return std::equal(kMapped.begin(), kMapped.end(), bytes.begin());
}

bool NetworkAddress::is_any() const {
  return std::all_of(bytes.begin() + (is_ipv4() ? kMapped.size() : 0), bytes.end(),
                     [](uint8_t byte) { return byte == 0; });
}

bool NetworkAddress::is_loopback() const {
  if (is_ipv4()) return bytes[kMapped.size()] == 127;
  return bytes[15] == 1 &&
         std::all_of(bytes.begin(), bytes.end() - 1, [](uint8_t byte) { return byte == 0; });
}

bool NetworkAddress::is_multicast() const {
  return is_ipv4() ? bytes[kMapped.size()] >> 4 == 0xe : bytes[0] == 0xff;
}

std::string NetworkAddress::host() const {
  std::array<char, INET6_ADDRSTRLEN> text{};
  const int domain = is_ipv4() ? AF_INET : AF_INET6;
  ::inet_ntop(domain, bytes.data() + (is_ipv4() ? kMapped.size() : 0), text.data(), text.size());
  return text.data();
}

void add_local_address(const NetworkAddress& address) {
  const Fd socket(::socket(address.is_ipv4() ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  bool added = socket.valid();
  if (added && address.is_ipv4()) {
    // An alias for each, so that none takes the place of another.
    static int aliases = 0;
    ifreq request{};
    const std::string name = fmt::format("lo:s{}", ++aliases);
    std::memcpy(request.ifr_name, name.data(), std::min<size_t>(name.size(), IFNAMSIZ - 1));
    sockaddr_in in{};
    in.sin_family = AF_INET;
    std::memcpy(&in.sin_addr, address.bytes.data() + kMapped.size(), sizeof in.sin_addr);
    std::memcpy(&request.ifr_addr, &in, sizeof in);
    added = ::ioctl(socket.get(), SIOCSIFADDR, &request) == 0;
    in.sin_addr.s_addr = UINT32_MAX;
    std::memcpy(&request.ifr_netmask, &in, sizeof in);
    added = added && ::ioctl(socket.get(), SIOCSIFNETMASK, &request) == 0;
  } else if (added) {
    in6_ifreq request{};
    std::memcpy(&request.ifr6_addr, address.bytes.data(), address.bytes.size());
    request.ifr6_prefixlen = 128;
    request.ifr6_ifindex = static_cast<int>(::if_nametoindex("lo"));
    added = ::ioctl(socket.get(), SIOCSIFADDR, &request) == 0 || errno == EEXIST;
  }
  if (!added) throw_errno("cannot give the network of the sandbox the address {}", address.host());
}

void inject_datagram(const NetworkAddress& from, const NetworkAddress& to,
                     const std::string& content, bool is_lite, const PacketMarks& marks) {
  constexpr size_t kHeader = 8, kSumAt = 6;
  std::string segment;
  put16(segment, from.port);
  put16(segment, to.port);
  put16(segment, is_lite ? 0 : kHeader + content.size());  // of what UDP-Lite sums: all
  put16(segment, 0);
  segment += content;
  const uint8_t protocol = is_lite ? IPPROTO_UDPLITE : IPPROTO_UDP;
  add_checksum(from, to, protocol, segment, kSumAt);
  send_raw(to, ip_header(from, to, protocol, segment.size(), marks) + segment);
}

namespace {

enum : uint16_t { kFin = 1, kReset = 4, kAck = 16 };  // RFC 9293

void inject_segment(const NetworkAddress& from, const NetworkAddress& to, const TcpNumbers& numbers,
                    int flags) {
  constexpr uint16_t kWords = 5, kSumAt = 16, kWindow = UINT16_MAX;
  std::string segment;
  put16(segment, from.port);
  put16(segment, to.port);
  put32(segment, numbers.sequence);
  put32(segment, numbers.acknowledged);
  put16(segment, static_cast<uint16_t>(kWords << 12 | flags));
  put16(segment, kWindow);
  put32(segment, 0);
  add_checksum(from, to, IPPROTO_TCP, segment, kSumAt);
  send_raw(to, ip_header(from, to, IPPROTO_TCP, segment.size(), {}) + segment);
}

}  // namespace

void inject_end(const NetworkAddress& from, const NetworkAddress& to, const TcpNumbers& numbers) {
  inject_segment(from, to, numbers, kAck | kFin);
}

void inject_reset(const NetworkAddress& from, const NetworkAddress& to, const TcpNumbers& numbers) {
  inject_segment(from, to, numbers, kAck | kReset);
}

}  // namespace snapgdb
