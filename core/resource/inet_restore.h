#pragma once

#include "core/linux/network_address.h"
#include "core/linux/tcp_repair.h"
#include "core/resource/socket.h"

// Between the files of the sockets of AF_INET and AF_INET6.
namespace snapgdb {

bool is_inet(const pb::Socket& socket);
bool is_tcp(const pb::Socket& socket);
// Sends UDP or UDP-Lite.
bool is_udp(const pb::Socket& socket);
TcpPhase phase_of(const pb::Socket& socket);
TcpConnection connection_of(const pb::Socket& socket);
void record_connection(const TcpConnection& connection, pb::TcpState& record);

// A new one of that kind with the options, as far as it has them by now.
Fd make_socket(OpeningContext& context, const pb::Descriptor& descriptor);
// To the local address of the record, if it has one.
void bind_again(OpeningContext& context, const Fd& socket, const pb::Descriptor& descriptor);
void connect_again(OpeningContext& context, const Fd& socket, const pb::Descriptor& descriptor);
// The address, so that a sandbox has it.
std::string usable_here(OpeningContext& context, std::string address);
// What it no longer receives or sends, shutdown(2).
void shut_down_again(const Fd& socket, uint32_t how);
// An option of the record that is a number; 0 if it is not there.
int number_option(const pb::Socket& socket, int level, int name);

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
