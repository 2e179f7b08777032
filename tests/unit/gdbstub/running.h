#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <csignal>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "conversation.h"
#include "core/base/error.h"
#include "fake_target.h"

namespace snapgdb::gdbstub {

// A debugger on a tree of two processes, which a script makes run.

using Kind = Event::Kind;

constexpr std::string_view kFeatures =
    "multiprocess+;swbreak+;hwbreak+;fork-events+;vfork-events+;exec-events+;no-resumed+";
inline const ThreadId kFirst{Pid{16}, Tid{16}}, kSecond{Pid{16}, Tid{17}}, kOther{Pid{32}, Tid{32}};
inline const ThreadId kChild{Pid{48}, Tid{48}};

inline std::shared_ptr<const Snapshot> tree() {
  SnapshotBuilder builder;
  builder.process(16)
      .thread(16, 0x401000, 0x7000)
      .thread(17, 0x402000, 0x8000)
      .memory(0x1000, "first", PROT_READ | PROT_WRITE)
      .memory(0x401000, "code", PROT_READ | PROT_EXEC);
  builder.process(32, 16).thread(32).memory(0x1000, "second", PROT_READ);
  return builder.build();
}

struct Debugger {
  explicit Debugger(bool multi = false, std::string_view features = kFeatures)
      : client(tree(), {.multi = multi, .launch = launcher(script)}, features) {}

  // What a program does after it was resumed so, as the client hears of it.
  std::string told(std::string_view request, const Event& event) {
    script.events.push_back(event);
    return client.ask(request);
  }
  bool was_asked(std::string_view what) const {
    return std::ranges::find(script.done, what) != script.done.end();
  }

  Script script;
  Conversation client;
};

struct Lost : FakeTarget {
  using FakeTarget::FakeTarget;
  std::optional<Event> next_event() override { throw Error("cannot wait", "it is gone"); }
};

inline const std::string kContinue = "vCont;c:p10.-1";

}  // namespace snapgdb::gdbstub
