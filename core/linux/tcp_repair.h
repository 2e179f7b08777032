#pragma once

#include <linux/tcp.h>
#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "core/base/fd.h"
#include "core/linux/option_guard.h"

namespace snapgdb {

// include/net/tcp_states.h
enum class TcpPhase : uint32_t {
  kEstablished = 1,
  kSynSent,
  kSynReceived,
  kFinWait1,
  kFinWait2,
  kTimeWait,
  kClosed,
  kCloseWait,
  kLastAck,
  kListening,
  kClosing,
};
constexpr bool has_sent_end(TcpPhase phase) {
  return phase == TcpPhase::kFinWait1 || phase == TcpPhase::kFinWait2 ||
         phase == TcpPhase::kLastAck || phase == TcpPhase::kClosing || phase == TcpPhase::kTimeWait;
}
constexpr bool has_received_end(TcpPhase phase) {
  return phase == TcpPhase::kCloseWait || phase == TcpPhase::kLastAck ||
         phase == TcpPhase::kClosing || phase == TcpPhase::kTimeWait;
}
constexpr bool is_connected(TcpPhase phase) {
  return phase == TcpPhase::kEstablished || phase == TcpPhase::kSynReceived ||
         phase == TcpPhase::kCloseWait || has_sent_end(phase);
}

// A connection, as TCP_REPAIR reads and sets it. Sequence numbers of the first byte in the queue.
struct TcpConnection {
  TcpPhase phase = TcpPhase::kClosed;
  uint32_t send_sequence = 0, receive_sequence = 0;
  std::string send_queue, receive_queue;
  uint32_t unsent = 0;  // at the end of send_queue, which is known only to who may repair
  uint32_t maximum_segment = 0;
  struct Scale {
    uint32_t send = 0, receive = 0;
  };
  std::optional<Scale> window_scale;
  std::optional<uint32_t> timestamp;
  bool selective_acks = false;
  // Only the right to repair (CAP_NET_ADMIN) tells it, as the sequence numbers and what is queued
  // to be sent.
  std::optional<tcp_repair_window> window;
  // Since it was made, without those that were sent once more; the end of the other side is one.
  uint64_t bytes_sent = 0, bytes_received = 0;
  bool has_urgent_data = false;  // it is among the received bytes, where the program would find it
};

tcp_info tcp_info_of(const Fd& socket);
TcpPhase tcp_phase_of(const Fd& socket);

// Of a socket of a stopped program, which stays as it is. What is sent is read before what is
// received: of two connected sockets, all with the first before any with the second. Then no byte
// is acknowledged that is not received. `why_not`: why only a part could be read, "" if all was;
// then, what was sent may be on its way still. If it says so before, there is no repair mode, in
// which acknowledgements send nothing on (tcp_write_xmit(), net/ipv4/tcp_output.c): an end
// elsewhere would notice a silence of a retransmission time.
void read_sending(const Fd& socket, OptionGuard& guard, TcpConnection& connection,
                  std::string& why_not);
void read_receiving(const Fd& socket, OptionGuard& guard, TcpConnection& connection,
                    std::string& why_not);

// Of two ends of one connection that were both read: the kernel goes on sending for a stopped
// program, and what has arrived when the other end was read need not be sent any more. It must not,
// either: acknowledgements of what was never sent are thrown away, and both ends would repeat
// themselves for ever.
void forget_what_has_arrived(TcpConnection& from, const TcpConnection& to);

// What has arrived and is not read, of a connection in any state.
std::string peek_received(const Fd& socket, OptionGuard& guard);

// Restoring: what is closed in repair mode tells the other end nothing.
void begin_repair(const Fd& socket);
// Precondition: in repair mode, and bound. The other end has seen what was received up to now, and
// has been sent what is not marked as unsent.
void connect_silently(const Fd& socket, const TcpConnection& connection,
                      const std::string& remote_address);
void queue_unsent(const Fd& socket, const TcpConnection& connection);
// Packets go their ways again. `reusable`: SO_REUSEADDR, which repair mode forgets.
void end_repair(const Fd& socket, bool reusable);

// Of one that its other end has ended (ECONNRESET): leaves repair mode; `has_error`: that is still
// to be told.
void end_repair_of_closed(const Fd& socket, bool has_error);

}  // namespace snapgdb
