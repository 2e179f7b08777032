#pragma once

#include <algorithm>

#include "core/linux/network_address.h"
#include "core/linux/tcp_repair.h"
#include "core/resource/socket.h"

// Between the files of the sockets of AF_INET and AF_INET6.
namespace snapgdb {

// Also of those that are in a message.
bool has_descriptor_that(const Snapshot& snapshot, const auto& is_it) {
  return std::ranges::any_of(snapshot.processes(), [&](const pb::Process& process) {
    return std::ranges::any_of(process.descriptors(), is_it) ||
           std::ranges::any_of(process.in_flight(), is_it);
  });
}

bool is_inet(const pb::Socket& socket);
bool is_tcp(const pb::Socket& socket);
// Sends UDP or UDP-Lite.
bool is_udp(const pb::Socket& socket);
TcpPhase phase_of(const pb::Socket& socket);
TcpConnection connection_of(const pb::Socket& socket);
void record_connection(const TcpConnection& connection, pb::TcpState& record);

// Of sockets without connections: what they receive and send no more, and their groups.
void capture_datagram_state(CaptureContext& context, const OpenDescriptor& open, const Fd& socket,
                            pb::Socket& record);
// What waits in them, as far as it can be read; the rest is said to be missing.
void read_datagrams(CaptureContext& context, int32_t pid, pb::Descriptor& descriptor,
                    const Fd& socket, OptionGuard& guard);
// Of a TCP socket that is not connected any more: what it has not read yet.
void read_closed(pb::Descriptor& descriptor, const Fd& socket, OptionGuard& guard);

// A new one of that kind with the options, as far as it has them by now.
Fd make_socket(OpeningContext& context, const pb::Descriptor& descriptor);
// To the local address of the record, if it has one.
void bind_again(OpeningContext& context, const Fd& socket, const pb::Descriptor& descriptor);
void connect_again(OpeningContext& context, const Fd& socket, const pb::Descriptor& descriptor);
// Whether a socket can be bound to it.
bool is_here(std::string address);
// The address, so that a sandbox has it.
std::string usable_here(OpeningContext& context, const pb::Socket& socket, std::string address);
// Whether it takes SO_REUSEPORT to bind, and set_port_shared() afterwards to what it was.
bool shares_port(const Snapshot& snapshot, const pb::Descriptor& descriptor);
void set_port_shared(const Fd& socket, int shared);
// What it no longer receives or sends, shutdown(2).
void shut_down_again(const Fd& socket, uint32_t how);
// An option of the record that is a number; 0 if it is not there.
int number_option(const pb::Socket& socket, int level, int name);

// A connection to a listening socket of the tree, which has not accepted it.
bool waits_to_be_accepted(const Snapshot& snapshot, const pb::Descriptor& descriptor);

std::string tcp_obstacle(const Snapshot& snapshot, const pb::Descriptor& descriptor);
Fd open_tcp(OpeningContext& context, const pb::Descriptor& descriptor);
// Of all of them, in steps: ends go back and forth.
struct OpenSocket {
  const pb::Descriptor* descriptor;
  const Fd* socket;
};
void finish_tcp(OpeningContext& context, std::span<const OpenSocket> sockets);

Fd open_datagram(OpeningContext& context, const pb::Descriptor& descriptor);
void finish_datagram(OpeningContext& context, const OpenSocket& open);

}  // namespace snapgdb
