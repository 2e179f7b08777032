// Encrypted and signed images, from making the key to reading the image in every way there is.

#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "tests/e2e/harness.h"
#include "tests/e2e/image_bytes.h"

namespace snapgdb::e2e {
namespace {

// Two people's keys, and an image of a real program that the first signed and encrypted for
// herself.
struct Shared {
  Shared() {
    for (const char* name : {"alice", "bob"}) {
      const Result result = snapgdb({"keygen", "-o", directory / name});
      INFO(result);
      REQUIRE(result.ok());
    }
    Target target("witness-static", {"--alone"});
    capture(target.pid(), image,
            {"--recipient", directory / "alice.pub", "--sign", directory / "alice"});
    pid = target.pid();
  }

  std::string key(const std::string& name) const { return directory / name; }
  RunOptions as(const std::string& name) const {
    return {.environment = {{"SNAPGDB_KEY", name.empty() ? "" : key(name)}}};
  }
  std::string public_key(const std::string& name) const {
    return lines_of(read_file(directory / (name + ".pub"))).at(0);
  }

  TempDir directory;
  std::string image = directory / "image.snapgdb";
  pid_t pid = 0;
};

const Shared& shared() {
  static const Shared kShared;
  return kShared;
}

// Whatever opens an image, and what it needs besides.
std::vector<Words> reading_commands(const TempDir& directory, const std::string& image) {
  return {{"show", image},
          {"show", image, "maps", "--json"},
          {"bt", image},
          {"verify", image},
          {"core", image, "-o", directory / "core"},
          {"debug", image, "--", "-batch", "-nx"},
          {image}};
}

TEST_CASE("keygen makes a private and a public file, and prints the public key") {
  const TempDir directory;
  const Result result = snapgdb({"keygen"}, {.directory = directory.path()});
  INFO(result);
  REQUIRE(result.ok());
  CHECK(directory.names() == Words{"snapgdb.key", "snapgdb.key.pub"});
  struct stat status {};
  REQUIRE(::stat((directory / "snapgdb.key").c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
  CHECK(result.out == read_file(directory / "snapgdb.key.pub"));
  CHECK(result.out.starts_with("snapgdb1:"));
  CHECK(lines_of(result.out).size() == 1);
  CHECK_FALSE(contains(result.out + result.err, "-secret:"));
}

TEST_CASE("keygen never replaces a key") {
  const TempDir directory;
  write_file(directory / "a", "mine");
  check_refused(snapgdb({"keygen", "-o", directory / "a"}), 1, {"File exists"});
  CHECK(read_file(directory / "a") == "mine");
  write_file(directory / "b.pub", "mine");
  check_refused(snapgdb({"keygen", "-o", directory / "b"}), 1, {"b.pub", "File exists"});
  CHECK(directory.names() == Words{"a", "b.pub"});
}

TEST_CASE("every command reads an encrypted image with --key") {
  const TempDir directory;
  for (Words command : reading_commands(directory, shared().image)) {
    command.insert(command.end() - (command[0] == "debug" ? 3 : 0),
                   {"--key", shared().key("alice")});
    const Result result = snapgdb(command, shared().as(""));
    INFO(result);
    CHECK((result.status == 0 || result.status == 3));
  }
}

TEST_CASE("every command reads an encrypted image with SNAPGDB_KEY") {
  const TempDir directory;
  for (const Words& command : reading_commands(directory, shared().image)) {
    const Result result = snapgdb(command, shared().as("alice"));
    INFO(result);
    CHECK((result.status == 0 || result.status == 3));
  }
}

TEST_CASE("every command refuses an encrypted image without a key, and with a wrong one") {
  const TempDir directory;
  for (const Words& command : reading_commands(directory, shared().image)) {
    check_refused(snapgdb(command, shared().as("")), 1,
                  {"image.snapgdb", "it is encrypted", "--key FILE", "SNAPGDB_KEY"});
    check_refused(snapgdb(command, shared().as("bob")), 1,
                  {"image.snapgdb", "it is encrypted for another key", "bob"});
  }
  CHECK(directory.names().empty());
}

TEST_CASE("gdb sees an encrypted image as any other") {
  const std::string target = "target remote | " + program() + " " + shared().image;
  const Result result = gdb({target, "info threads", "p witness_least"}, {}, shared().as("alice"));
  check_says(result, {"\"witness\"", "$1 = -9223372036854775808"});
  const Result refused = gdb({target}, {}, shared().as(""));
  check_says(refused, {"it is encrypted"});
}

TEST_CASE("several can be given an image, each by text or by file") {
  const TempDir directory;
  const std::string image = directory / "x.snapgdb";
  Target target("zombies");
  capture(target.pid(), image,
          {"--recipient", shared().public_key("alice"), "--recipient", shared().key("bob.pub")});
  CHECK(snapgdb({"show", image}, shared().as("alice")).ok());
  CHECK(snapgdb({"show", image}, shared().as("bob")).ok());
}

TEST_CASE("an encrypted image can be streamed, and read from a stream") {
  const TempDir directory;
  Target target("zombies");
  Words words{"capture",     std::to_string(target.pid()),
              "-o",          "-",
              "--recipient", shared().key("alice.pub"),
              "--sign",      shared().key("bob"),
              "--level",     "0"};
  std::string pipeline = program();
  for (const std::string& word : words) pipeline += " '" + word + "'";
  pipeline += " | " + program() + " verify - --signed-by '" + shared().key("bob.pub") + "'";
  const Result result = run({"sh", "-c", pipeline}, shared().as("alice"));
  INFO(result);
  CHECK(result.ok());
  CHECK(contains(result.out,
                 "-: whole, 1 snapshot, encrypted, signed by " + shared().public_key("bob")));
}

TEST_CASE("a crash under snapgdb run is encrypted and signed on request") {
  const TempDir directory;
  const std::string image = directory / "crash.snapgdb";
  snapgdb({"run", "-o", image, "--recipient", shared().key("alice.pub"), "--sign",
           shared().key("alice"), "--", target_path("crasher"), "abort"});
  check_refused(snapgdb({"show", image}, shared().as("")), 1, {"it is encrypted"});
  const Result result =
      snapgdb({"verify", image, "--signed-by", shared().key("alice.pub")}, shared().as("alice"));
  INFO(result);
  CHECK(result.ok());
  check_says(snapgdb({"show", image}, shared().as("alice")), {"SIGABRT"});
}

TEST_CASE("a key that cannot be used is refused before anything is captured or run") {
  const TempDir directory;
  const auto try_with = [&](const Words& options) {
    Words words{"run", "-o", directory / "x", "--on", "crash"};
    words.insert(words.end(), options.begin(), options.end());
    words.insert(words.end(), {"--", "touch", directory / "ran"});
    return snapgdb(words);
  };
  std::string slip = shared().public_key("alice");
  slip[20] = slip[20] == 'A' ? 'B' : 'A';
  check_refused(try_with({"--recipient", slip}), 2, {"not copied whole"});
  check_refused(try_with({"--recipient", shared().key("alice")}), 2, {"it is a secret key"});
  check_refused(try_with({"--recipient", "/nonexistent"}), 1, {"/nonexistent", "No such file"});
  check_refused(try_with({"--sign", shared().key("alice.pub")}), 1, {"it is a public key"});
  CHECK(directory.names().empty());
}

TEST_CASE("verify tells who signed, and demands who should have") {
  const auto verify = [](const std::string& image, const Words& more) {
    Words words{"verify", image};
    words.insert(words.end(), more.begin(), more.end());
    return snapgdb(words, shared().as("alice"));
  };
  check_says(verify(shared().image, {}),
             {"whole, 1 snapshot, encrypted, signed by " + shared().public_key("alice")});
  CHECK(verify(shared().image, {"--signed-by", shared().public_key("alice")}).ok());
  check_refused(verify(shared().image, {"--signed-by", shared().key("bob.pub")}), 1,
                {"it is signed by " + shared().public_key("alice"),
                 "wanted is " + shared().public_key("bob")});

  const TempDir directory;
  Target target("zombies");
  capture(target.pid(), directory / "plain.snapgdb");
  check_says(verify(directory / "plain.snapgdb", {}), {"whole, 1 snapshot, not signed"});
  check_refused(verify(directory / "plain.snapgdb", {"--signed-by", shared().key("bob.pub")}), 1,
                {"it is not signed"});
}

TEST_CASE("a wrong key, a changed byte and a cut-off file are three different messages") {
  const TempDir directory;
  const std::string whole = read_file(shared().image), path = directory / "x.snapgdb";
  const auto chunks = chunks_of(whole);
  check_refused(snapgdb({"verify", shared().image}, shared().as("bob")), 1, {"another key"});

  for (const ChunkPlace& chunk : {chunks.at(1), chunks.at(chunks.size() - 2)}) {
    std::string bytes = whole;
    bytes[chunk.offset + kChunkHeaderSize + chunk.payload / 2] ^= 1;
    write_file(path, bytes);
    check_refused(snapgdb({"verify", path}, shared().as("alice")), 1,
                  {"chunk " + chunk.type, "is damaged"});
  }
  for (const size_t size : {chunks.at(1).offset + 5, whole.size() / 2, whole.size() - 1}) {
    write_file(path, whole.substr(0, size));
    check_refused(snapgdb({"verify", path}, shared().as("alice")), 1, {"cut off", "--salvage"});
  }
}

TEST_CASE("what is whole in an encrypted image that was cut off can be salvaged") {
  const TempDir directory;
  const std::string whole = read_file(shared().image), path = directory / "x.snapgdb";
  write_file(path, whole.substr(0, whole.size() / 2));
  check_says(
      snapgdb({"show", "--salvage", path}, shared().as("alice")),
      {"witness", "not known: the image lacks its record", "the end of the image", "cut off"});
  check_refused(snapgdb({"show", "--salvage", path}, shared().as("")), 1, {"it is encrypted"});
  const Result core =
      snapgdb({"core", "--salvage", path, "-o", directory / "core"}, shared().as("alice"));
  INFO(core);
  CHECK(core.status == 3);
}

}  // namespace
}  // namespace snapgdb::e2e
