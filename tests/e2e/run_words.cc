// Words for another program, which `snapgdb run` and `snapgdb debug` hand on.

#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <cstdlib>

#include "tests/e2e/harness.h"

namespace snapgdb::e2e {
namespace {

// What options, verbs, lists and quotes look like.
const Words kWords{"[a,b]", "[]",    "{}",    "",    "[ -e /etc ]", "[[ 1 ]]", "--", "-o", "--help",
                   "show",  "--key", "\"q\"", "'q'", "a,b",         "%%",      "++", "-",  "["};

std::string in_brackets(const Words& words) {
  std::string text;
  for (const std::string& word : words) text += "<" + word + ">";
  return text;
}

Result hand_on(Words command, const Words& words, RunOptions options = {}) {
  command.insert(command.end(), words.begin(), words.end());
  return snapgdb(command, std::move(options));
}

TEST_CASE("every word reaches the program under snapgdb run as it is") {
  const TempDir directory;
  const Words to_print{"run", "-o", directory / "image", "--", "printf", "<%s>"};
  const Result all = hand_on(to_print, kWords);
  INFO(all);
  CHECK(all.ok());
  CHECK(all.out == in_brackets(kWords));
  for (const std::string& word : kWords) {
    CAPTURE(word);
    CHECK(hand_on(to_print, {word}).out == in_brackets({word}));
  }
}

TEST_CASE("a program's test in brackets is one word to its shell") {
  const TempDir directory;
  const Words shell{"run", "-o", directory / "image", "--", "sh", "-c"};
  CHECK(hand_on(shell, {"[ -e /etc ]"}).ok());
  CHECK(hand_on(shell, {"[ -e /nonexistent ]"}).status == 1);
}

TEST_CASE("words that do not look like options need no dashes before them") {
  const TempDir directory;
  for (const Words& command : {Words{"run", "-o", directory / "image", "echo", "[a,b]", "show"},
                               Words{"run", "echo", "[a,b]", "show", "-o", directory / "image"}}) {
    const Result result = snapgdb(command);
    INFO(result);
    CHECK(result.out == "[a,b] show\n");
  }
}

TEST_CASE("a command that is not there is asked for") {
  for (const Words& command :
       {Words{"run", "-o", "x"}, {"run", "-o", "x", "--"}, {"run", "--on", "start", "-o", "x"}})
    check_refused(snapgdb(command), 2, {"CMD is required"});
  const Result help = snapgdb({"run", "--help"});
  INFO(help);
  CHECK(help.ok());
  CHECK(contains(help.out, "CMD..."));
  CHECK(contains(help.out, "CMD TEXT ... REQUIRED"));
}

TEST_CASE("every word reaches gdb as it is") {
  const TempDir directory;
  const std::string image = directory / "image", gdb = directory / "gdb";
  REQUIRE(snapgdb({"run", "--on", "start", "--kill", "-o", image, "--", "true"}).ok());
  // Instead of gdb. The first words are snapgdb's own.
  write_file(gdb, "#!/bin/sh\nshift 3\n[ $# = 0 ] || printf '<%s>' \"$@\"\n");
  REQUIRE(chmod(gdb.c_str(), 0700) == 0);
  const RunOptions options{
      .environment = {{"PATH", directory.path() + ":" + std::string(getenv("PATH"))}}};
  const Result all = hand_on({"debug", image, "--"}, kWords, options);
  INFO(all);
  CHECK(all.out == in_brackets(kWords));
  CHECK(snapgdb({"debug", image}, options).out.empty());
}

}  // namespace
}  // namespace snapgdb::e2e
