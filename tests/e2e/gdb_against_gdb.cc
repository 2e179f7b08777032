// The same gdb, given the same commands, attached to a live process and connected to its image: it
// says the same, but for what cannot agree, which is listed here (kDifferences).

#include <fmt/format.h>
#include <signal.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <regex>

#include "tests/e2e/debugger_dump.h"
#include "tests/e2e/harness.h"

namespace snapgdb::e2e {
namespace {

struct Difference {
  const char* pattern;
  const char* becomes;
};

const Difference kDifferences[] = {
    // gdb knows a remote thread by its numbers only, a native one by its pthread_t as well.
    {R"(Thread 0x[0-9a-f]+ \(LWP (\d+)\))", "LWP $1"},
    {R"(Thread \d+\.(\d+))", "LWP $1"},
    // Files are the target's.
    {"target:", ""},
    // Being looked at natively is a state of its own.
    {R"(State:\s+[tT] \(.*\))", "State: stopped"},
    {R"(State: [tT])", "State: stopped"},
    // libthread_db tells gdb which signals it uses itself.
    {R"(SIG3[23] .*)", ""},
    // A column is as wide as its content.
    {" {2,}", " "},
    {R"([ \t]+\n)", "\n"},
};

// A library's path as the dynamic linker has it may lead through symbolic links.
std::string with_resolved_paths(const std::string& text) {
  static const std::regex kLibrary(R"(/\S+\.so\S*)");
  std::string out;
  auto at = text.cbegin();
  for (std::sregex_iterator found(text.begin(), text.end(), kLibrary), end; found != end; ++found) {
    std::error_code none;
    const auto resolved = std::filesystem::canonical(found->str(), none);
    out.append(at, (*found)[0].first).append(none ? found->str() : resolved.string());
    at = (*found)[0].second;
  }
  return out.append(at, text.cend());
}

std::string normalised(std::string said) {
  for (const Difference& each : kDifferences)
    said = std::regex_replace(said, std::regex(each.pattern), each.becomes);
  return with_resolved_paths(said);
}

// Where two answers begin to differ, and how; "" if they do not.
std::string first_difference(const std::string& live, const std::string& image) {
  constexpr size_t kBefore = 60, kShown = 200;
  const std::string a = normalised(live), b = normalised(image);
  if (a == b) return "";
  const size_t at = std::ranges::mismatch(a, b).in1 - a.begin();
  const size_t from = at - std::min(at, kBefore);
  return fmt::format("live: …{}…\nimage: …{}…", a.substr(from, kShown), b.substr(from, kShown));
}

// Command → what gdb answered.
using Answers = std::map<std::string, std::string>;

Answers ask(const Words& connection, const Words& commands) {
  const TempDir scratch;
  std::string script;
  for (const std::string& command : commands) script += command + "\n";
  write_file(scratch / "commands", script);
  Words line{"gdb", "-nx", "-batch"};
  line.insert(line.end(), connection.begin(), connection.end());
  line.insert(line.end(), {"-x", script_path("say_commands.py")});
  const Result result = run(line, {.environment = {{"SAY_COMMANDS", scratch / "commands"},
                                                   {"SAY_OUT", scratch / "said"},
                                                   {"MISREAD_REGISTERS", misread_registers()},
                                                   {"DEBUGINFOD_URLS", ""},
                                                   {"LC_ALL", "C.UTF-8"}}});
  INFO(result);
  REQUIRE(result.ok());
  Answers answers;
  std::string* current = nullptr;
  for (const std::string& said : lines_of(read_file(scratch / "said"))) {
    if (said.starts_with("== "))
      current = &answers[said.substr(3)];
    else if (current)
      *current += said + "\n";
  }
  return answers;
}

// For any program.
const Words kCommands = {
    "info threads",
    "thread apply all bt",
    "thread apply all -q info registers",
    "thread apply all -q info registers float",
    "thread apply all -q info registers vector",
    "thread apply all -q info registers system",
    "thread apply all -q info all-registers",
    "thread apply all -q p $_thread",
    "thread apply all -q x/4gx $rsp",
    "thread apply all -q x/3i $pc",
    "thread apply all -q p $fs_base",
    "p $orig_rax",
    "p $eflags",
    "p $xmm1",
    "p $ymm0",
    "p $st0",
    "p $_inferior",
    "info float",
    "info vector",
    "info frame",
    "up",
    "info frame",
    "info registers rbx rip",
    "frame 0",
    "info auxv",
    "info proc",
    "info proc cmdline",
    "info proc cwd",
    "info proc exe",
    "info proc mappings",
    "info sharedlibrary",
    "info signals",
    "info signals SIGSEGV",
    "info line *$pc",
    "info symbol $pc",
    "info source",
    "x/8xb $pc",
    "x/s *(char**)environ",
    "find /b $pc, +16, 0x0f",
    "find /g $rsp, +64, 0",
    "p *(char**)environ",
    "p errno",
    "ptype int",
};

// For programs of tests/targets, which have debug information.
const Words kWitness = {
    "p witness_struct",
    "p &witness_struct",
    "p/x witness_struct",
    "ptype witness_struct",
    "p witness_least",
    "p witness_constant",
    "thread apply all -q p witness_tls",
    "thread apply all -q p &witness_tls",
    "thread apply all -q p libwitness_tls",
    "thread apply all -q bt -full 4",
    "find &witness_least, +8, witness_least",
    "info line main",
    "info scope main",
    "info address main",
    "info symbol main",
    "list main",
    "disassemble main,+16",
};

Words with(Words commands, const Words& more) {
  commands.insert(commands.end(), more.begin(), more.end());
  return commands;
}

void check_gdb_says_the_same(pid_t pid, const Words& commands) {
  const TempDir results;
  stop({pid});
  capture(pid, results / "image", {"--all-memory"});
  const Answers live = ask({"-p", std::to_string(pid)}, commands);
  const Answers image =
      ask({"-ex", "target remote | " + program() + " " + (results / "image")}, commands);
  int silent = 0;
  for (const std::string& command : commands) {
    INFO(command);
    CHECK(first_difference(live.at(command), image.at(command)) == "");
    silent += live.at(command).empty();
  }
  CHECK(silent <= 2);  // `up` and `frame 0`: a comparison of nothing proves nothing
  resume({pid});
}

struct Subject {
  const char* title;
  const char* name;
  Words arguments, commands;
};

TEST_CASE("gdb says the same of a live program and of its image, command by command") {
  const Subject subjects[] = {
      {"a program with libraries", "witness", {"--alone"}, with(kCommands, kWitness)},
      {"a static program at fixed addresses",
       "witness-static",
       {"--alone"},
       with(with(kCommands, kWitness), {"compare-sections .text", "compare-sections -r"})},
      {"a program with many threads", "crowd", {"--processes", "1", "--threads", "30"}, kCommands},
      {"a program with every kind of descriptor", "descriptors", {}, kCommands},
  };
  for (const Subject& subject : subjects) DYNAMIC_SECTION(subject.title) {
      Target target(subject.name, subject.arguments);
      check_gdb_says_the_same(target.pid(), subject.commands);
    }
}

TEST_CASE("gdb says the same of a live python3 and of its image") {
  if (skip_unless(installed("python3"), "python3 is not installed")) return;
  Running python({"python3", "-c",
                  "import sys, threading, time, json, ssl\n"
                  "for _ in range(5): threading.Thread(target=time.sleep, args=(1000,), "
                  "daemon=True).start()\n"
                  "print('ready', flush=True)\n"
                  "time.sleep(1000)"});
  python.wait_for_line("ready");
  check_gdb_says_the_same(python.pid(), kCommands);
}

TEST_CASE("gdb says the same of a signal from an image as from a program that it stopped") {
  const Words commands{"p $_siginfo.si_signo", "p $_siginfo._sifields._sigfault.si_addr",
                       "p $_siginfo.si_code", "info signals SIGSEGV"};
  const TempDir results;
  const Result caught =
      snapgdb({"run", "-o", results / "image", "--", target_path("crasher"), "segv-thread"});
  INFO(caught);
  REQUIRE(std::filesystem::exists(results / "image"));
  const Answers live = ask({target_path("crasher"), "-ex", "run segv-thread"}, commands);
  const Answers image =
      ask({"-ex", "target remote | " + program() + " " + (results / "image")}, commands);
  for (const std::string& command : commands) CHECK(image.at(command) == live.at(command));
  CHECK(contains(image.at("p $_siginfo.si_signo"), "= 11"));
}

TEST_CASE("a core that gdb writes from an image is as good as one it writes from the process") {
  const TempDir results;
  Target target("crowd", {"--processes", "1", "--threads", "3"});
  stop({target.pid()});
  capture(target.pid(), results / "image", {"--all-memory"});
  const Words commands{"thread apply all bt", "thread apply all -q info all-registers",
                       "thread apply all -q x/64gx $rsp", "p longest_gap", "info auxv"};
  std::vector<Answers> read_back;
  const Words connections[] = {{"-p", std::to_string(target.pid())},
                               {"-ex", "target remote | " + program() + " " + (results / "image")}};
  for (const Words& connection : connections) {
    const std::string core = results / "core";
    ask(connection, {"generate-core-file " + core});
    read_back.push_back(ask({target_path("crowd"), core}, commands));
    std::filesystem::remove(core);
  }
  for (const std::string& command : commands)
    CHECK(first_difference(read_back[0].at(command), read_back[1].at(command)) == "");
  resume({target.pid()});
}

}  // namespace
}  // namespace snapgdb::e2e
