#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/strings.h"
#include "core/image/snapshot_builder.h"
#include "gdbstub/framing.h"
#include "gdbstub/session.h"

namespace snapgdb::gdbstub {

// The payloads of a stream of packets from the stub, as a client would see them.
inline std::vector<std::string> payloads(std::string_view stream) {
  Decoder decoder;
  std::vector<std::string> out;
  for (const Incoming& each : decoder.push(stream))
    if (each.kind == Incoming::Kind::kPacket) out.push_back(each.payload);
  return out;
}

// A client that has switched acknowledgements off and says what gdb 13 says of itself.
class Conversation {
 public:
  explicit Conversation(std::shared_ptr<const Snapshot> snapshot,
                        const SessionOptions& options = {},
                        std::string_view features = "multiprocess+")
      : session(std::move(snapshot), options) {
    session.feed(frame("QStartNoAckMode"));
    supported = ask(fmt::format("qSupported:{}", features));
  }

  // All the packets that a request brings.
  std::vector<std::string> ask_all(std::string_view request) {
    return payloads(session.feed(frame(request)));
  }
  // The last of them, which is the reply.
  std::string ask(std::string_view request) {
    const auto replies = ask_all(request);
    if (replies.empty()) throw std::runtime_error("no reply to " + std::string(request));
    return replies.back();
  }
  // The whole of a qXfer object, fetched in pieces of `step` bytes.
  std::string fetch(std::string_view object, std::string_view annex = "", size_t step = 0x1000) {
    std::string content;
    while (true) {
      const std::string piece =
          ask(fmt::format("qXfer:{}:read:{}:{:x},{:x}", object, annex, content.size(), step));
      if (piece.empty() || (piece[0] != 'm' && piece[0] != 'l')) return piece;
      content += piece.substr(1);
      if (piece[0] == 'l') return content;
    }
  }
  // What `monitor` prints.
  std::string monitor(std::string_view line) {
    std::string text;
    for (const std::string& reply : ask_all("qRcmd," + to_hex(line)))
      if (reply.starts_with('O') && reply != "OK") text += from_hex(reply.substr(1)).value_or("?");
    return text;
  }

  Session session;
  std::string supported;
};

inline bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

}  // namespace snapgdb::gdbstub
