#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/image/snapshot.pb.h"

namespace snapgdb {

// The records of a snapshot in the words that people use for them. What came from the captured
// program is harmless to a terminal (printable()).

// "3 threads", "1 thread"
std::string counted(uint64_t number, std::string_view singular, std::string_view plural);
// "SIGSEGV", "SIGRTMIN+3"; "" for 0.
std::string signal_name(uint32_t number);
// "SIGINT SIGTERM": bit N-1 stands for signal N.
std::string signal_set(uint64_t bits);
// The letter of /proc/PID/stat as a word: "S" is "sleeping".
std::string state_word(std::string_view letter);
// What the thread was doing in the kernel: "read(3)", "futex(0x7f12a4000010)", "poll"; "" if it was
// in the program, or its registers are not in the snapshot.
struct SystemCallInProgress {
  std::string words;
  std::optional<int32_t> descriptor = {};  // that it is about
};
SystemCallInProgress system_call_of(const pb::Thread& thread);
// How a zombie ended, from its wait status: "exit status 3", "killed by SIGKILL".
std::string exit_text(int32_t wait_status);
// Arguments with blanks between them; "" if there are none.
std::string command_line(const pb::Process& process);

// Names of the bits that are set, separated by blanks; a rest without a name as 0x….
using BitNames = std::vector<std::pair<uint64_t, std::string_view>>;
std::string bit_names(uint64_t bits, const BitNames& names);

// "file", "pipe, read end", "TCP socket", …
std::string descriptor_kind(const pb::Descriptor& descriptor);
// What is particular to its kind: "count 3", "127.0.0.1:80 to 10.0.0.7:4242, established".
std::string descriptor_details(const pb::Descriptor& descriptor);
// "read-write append nonblock cloexec"
std::string descriptor_flags(const pb::Descriptor& descriptor);

}  // namespace snapgdb
