#include "tests/e2e/debugger_dump.h"

#include <cpuid.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <regex>
#include <sstream>

namespace snapgdb::e2e {
namespace {

Dump parse(const std::string& text) {
  Dump dump;
  for (const std::string& line : lines_of(text)) {
    const size_t end = line.find(": ");
    if (end != line.npos) dump[line.substr(0, end)] = line.substr(end + 2);
  }
  return dump;
}

}  // namespace

std::string misread_registers() {
  constexpr unsigned kXsave = 0xd, kOpmask = 5, kPkru = 9;
  constexpr std::pair<unsigned, unsigned> kUsual[] = {{kOpmask, 1088}, {kPkru, 2688}};
  for (const auto& [component, usual] : kUsual) {
    unsigned size = 0, offset = 0, c = 0, d = 0;
    __cpuid_count(kXsave, component, size, offset, c, d);
    if (offset != 0 && offset != usual) return "k[0-7]|pkru|zmm\\d+h?|[xy]mm(1[6-9]|[23]\\d)h?";
  }
  return "(?!)";
}

std::string without_misread_registers(const std::string& said) {
  const std::regex misread("(" + misread_registers() + ")\\s.*");
  std::string kept;
  for (const std::string& line : lines_of(said))
    if (!std::regex_match(line, misread)) kept += line + "\n";
  return kept;
}

Dump dump_with(Words command, const std::string& manifest, RunOptions options) {
  const TempDir scratch;
  write_file(scratch / "manifest", manifest);
  options.environment["DUMP_MANIFEST"] = scratch / "manifest";
  options.environment["DUMP_OUT"] = scratch / "dump";
  options.environment["MISREAD_REGISTERS"] = misread_registers();
  options.environment["DEBUGINFOD_URLS"] = "";
  options.environment["LC_ALL"] = "C.UTF-8";
  command.insert(command.end(), {"-ex", "source " + script_path("dump_state.py")});
  const Result result = run(std::move(command), std::move(options));
  INFO(result);
  REQUIRE(result.status == 0);
  REQUIRE_FALSE(contains(result.err, "Traceback"));
  return parse(read_file(scratch / "dump"));
}

Dump dump_with_gdb(const Words& arguments, const std::string& manifest, RunOptions options) {
  Words command{"gdb", "-nx", "-batch"};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return dump_with(std::move(command), manifest, std::move(options));
}

Dump only(const Dump& dump, const std::function<bool(const std::string& where)>& keep) {
  Dump kept;
  for (const auto& [where, what] : dump) {
    if (keep(where)) kept[where] = what;
  }
  return kept;
}

void check_agreement(const std::string& name_a, const Dump& a, const std::string& name_b,
                     const Dump& b) {
  constexpr int kShown = 25;
  std::ostringstream differences;
  int count = 0;
  const auto differ = [&](const std::string& where, const std::string& in_a,
                          const std::string& in_b) {
    if (++count <= kShown) {
      differences << where << "\n  " << name_a << ": " << in_a << "\n  " << name_b << ": " << in_b
                  << "\n";
    }
  };
  for (const auto& [where, what] : a) {
    const auto other = b.find(where);
    if (other == b.end()) {
      differ(where, what, "(nothing)");
    } else if (other->second != what) {
      differ(where, what, other->second);
    }
  }
  for (const auto& [where, what] : b) {
    if (!a.contains(where)) differ(where, "(nothing)", what);
  }
  INFO(name_a << " and " << name_b << ": of " << a.size() << " and " << b.size() << " places "
              << count << " differ\n"
              << differences.str());
  CHECK(count == 0);
}

size_t count_places(const Dump& dump, const std::string& part) {
  return std::count_if(dump.begin(), dump.end(),
                       [&](const auto& entry) { return contains(entry.first, part); });
}

std::string first_place_said(const Dump& dump, const std::string& part) {
  const auto found = std::find_if(dump.begin(), dump.end(),
                                  [&](const auto& entry) { return contains(entry.first, part); });
  return found == dump.end() ? "" : found->second;
}

}  // namespace snapgdb::e2e
