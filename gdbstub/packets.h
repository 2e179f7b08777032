#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "gdbstub/session_state.h"

namespace snapgdb::gdbstub {

// The reply to a packet; nullopt: the protocol wants none. "" says that the packet is not known.
using Reply = std::optional<std::string>;

// Serves a packet whose name has been recognised; gets what follows the name. Throws PacketError,
// or Error where the snapshot is damaged.
using Handler = Reply(SessionState& state, Scanner arguments);

// Looks the packet up in the one table of all packets and serves it; what a handler throws becomes
// an error reply.
Reply answer(SessionState& state, std::string_view payload);

// "E.text" for clients that take it, else "Exx".
std::string error_reply(const Client& client, int code, std::string_view text);

}  // namespace snapgdb::gdbstub
