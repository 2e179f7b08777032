#include "core/inspect/words.h"

#include <fmt/format.h>
#include <string.h>
#include <sys/wait.h>

#include <csignal>

#include "core/base/strings.h"

namespace snapgdb {
namespace {

void add_word(std::string& words, std::string_view word) {
  if (!words.empty()) words += ' ';
  words += word;
}

}  // namespace

std::string counted(uint64_t number, std::string_view singular, std::string_view plural) {
  return fmt::format("{} {}", number, number == 1 ? singular : plural);
}

std::string signal_name(uint32_t number) {
  if (number == 0) return {};
  const int signal = static_cast<int>(number);
  if (const char* name = ::sigabbrev_np(signal)) return fmt::format("SIG{}", name);
  // Named as kill -l does: glibc keeps the first two real-time signals, 32 and 33, for itself.
  if (signal == SIGRTMIN) return "SIGRTMIN";
  if (signal > SIGRTMIN && signal <= SIGRTMAX) return fmt::format("SIGRTMIN+{}", signal - SIGRTMIN);
  if (signal == 32 || signal == 33) return fmt::format("SIG{}", signal);
  return fmt::format("signal {}", number);
}

std::string signal_set(uint64_t bits) {
  std::string names;
  for (uint32_t number = 1; number <= 64; ++number)
    if (bits >> (number - 1) & 1) add_word(names, signal_name(number));
  return names;
}

std::string state_word(std::string_view letter) {
  // Documentation/filesystems/proc.rst, table 1-2, and fs/proc/array.c.
  static constexpr std::pair<std::string_view, std::string_view> kStates[] = {
      {"R", "running"}, {"S", "sleeping"}, {"D", "disk sleep"}, {"T", "stopped"},
      {"t", "traced"},  {"Z", "zombie"},   {"X", "dead"},       {"I", "idle"},
  };
  for (const auto& [state, word] : kStates)
    if (state == letter) return std::string(word);
  return printable(letter);
}

std::string exit_text(int32_t wait_status) {
  if (WIFSIGNALED(wait_status))
    return "killed by " + signal_name(static_cast<uint32_t>(WTERMSIG(wait_status)));
  return fmt::format("exit status {}", WEXITSTATUS(wait_status));
}

std::string command_line(const pb::Process& process) {
  std::string line;
  for (const std::string& argument : process.arguments()) add_word(line, printable(argument));
  return line;
}

std::string bit_names(uint64_t bits, const BitNames& names) {
  std::string words;
  for (const auto& [bit, name] : names) {
    if ((bits & bit) != bit) continue;
    add_word(words, name);
    bits &= ~bit;
  }
  if (bits) add_word(words, fmt::format("{:#x}", bits));
  return words;
}

}  // namespace snapgdb
