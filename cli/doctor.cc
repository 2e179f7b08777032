#include <fmt/format.h>

#include <array>
#include <cstdio>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "cli/command.h"
#include "core/base/error.h"
#include "core/base/say.h"
#include "core/base/strings.h"
#include "core/linux/abilities.h"
#include "core/linux/debug_registers.h"
#include "core/linux/host.h"
#include "core/version.h"

namespace snapgdb::cli {
namespace {

// The first line of what a program says of its version, or nullopt if there is none.
std::optional<std::string> version_of(const std::string& name) {
  const std::unique_ptr<FILE, int (*)(FILE*)> said(
      ::popen((name + " --version 2>/dev/null").c_str(), "re"), ::pclose);
  std::array<char, 256> line{};
  if (!said || !std::fgets(line.data(), line.size(), said.get())) return std::nullopt;
  return std::string(
      trim(std::string_view(line.data()).substr(0, std::string_view(line.data()).find('\n'))));
}

// "GNU gdb (Debian 13.1-3) 13.1": what follows the last blank.
std::optional<int> major_version(const std::string& version) {
  const std::string_view last = split_blank(version).back();
  return parse_number<int>(last.substr(0, last.find('.')));
}

constexpr int kOldestGdb = 13;

std::string why_no_gdb() {
  const auto version = version_of("gdb");
  if (!version || version->empty()) return "there is none in PATH";
  const auto major = major_version(*version);
  return major && *major < kOldestGdb ? *version + " is too old" : "";
}

std::string why_no_lldb() {
  return version_of("lldb") ? "" : "there is none in PATH";
}

std::string why_no_debug_registers() {
  return debug_registers_stop() ? "" : "the processor's debug registers stop nobody here";
}

constexpr Ability kToDebug[] = {
    {"gdb", false, why_no_gdb, "install gdb, version 13 or later"},
    {"lldb", false, why_no_lldb, "only if you prefer it: install lldb"},
    {"breakpoints and watchpoints of the processor", false, why_no_debug_registers,
     "without, watching goes instruction by instruction, and for writes only"},
};

// Returns whether something essential is lacking.
bool print(std::string_view title, std::span<const Ability> abilities) {
  fmt::print("\n{}\n", title);
  bool lacks = false;
  for (const Ability& one : abilities) {
    const std::string why_not = one.why_not();
    fmt::print("  {:3}  {}\n", why_not.empty() ? "yes" : "no", one.what);
    if (why_not.empty()) continue;
    fmt::print("       {}: {}\n", printable(why_not), one.help);
    lacks = lacks || one.essential;
  }
  return lacks;
}

int examine() {
  const HostDescription host = describe_host();
  fmt::print("snapgdb {} on Linux {} {}, {}\n", kVersion, printable(host.os_release), host.machine,
             host.cpu_model.empty() ? host.cpu_vendor : printable(host.cpu_model));
  bool lacks = print("capture", abilities_to_capture());
  lacks = print("restore", abilities_to_restore()) || lacks;
  lacks = print("debug", kToDebug) || lacks;
  if (!lacks) return static_cast<int>(ExitStatus::kDone);
  say("snapgdb: this machine lacks what your own processes need\n");
  return static_cast<int>(ExitStatus::kIncomplete);
}

Action define(CLI::App&) {
  return examine;
}

}  // namespace

const Command kDoctorCommand{
    "doctor", "Try what this machine and your rights let snapgdb do, and say what would help",
    define};

}  // namespace snapgdb::cli
