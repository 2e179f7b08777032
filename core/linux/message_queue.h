#pragma once

#include <sys/socket.h>

#include <optional>
#include <string>
#include <vector>

#include "core/base/fd.h"
#include "core/linux/option_guard.h"

namespace snapgdb {

// A message that waits in a socket of AF_UNIX: a datagram, or of a stream what was sent with the
// same companions.
struct PeekedMessage {
  std::string content;
  std::string sender;  // struct sockaddr_un; ""
  std::vector<Fd> descriptors;
  std::optional<ucred> credentials;
  bool out_of_band = false;
};
struct PeekedQueue {
  std::vector<PeekedMessage> messages;  // in order
  std::string why_incomplete;           // "" if they are all
};
// Leaves it as it is (MSG_PEEK, SO_PEEK_OFF); `type`: SOCK_*. Nobody else may receive from the
// socket meanwhile. Empty datagrams are found at the first time only: the kernel passes over those
// that were peeked at before (__skb_try_recv_from_queue(), net/core/datagram.c).
PeekedQueue peek_queue(const Fd& socket, int type, OptionGuard& guard);

}  // namespace snapgdb
