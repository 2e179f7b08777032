#include "core/inspect/json.h"

#include <catch2/catch.hpp>

#include "core/image/snapshot.pb.h"

using namespace snapgdb;

namespace {

llvm::json::Object object(const google::protobuf::Message& message) {
  return *to_json(message).getAsObject();
}

std::string text(const llvm::json::Object& from, llvm::StringRef key) {
  return from.getString(key).getValueOr("(no such text)").str();
}

}  // namespace

TEST_CASE("records become objects under the schema's names, empty fields included") {
  pb::Process process;
  process.set_pid(12);
  const auto json = object(process);
  CHECK(json.getInteger("pid") == llvm::Optional<int64_t>(12));
  CHECK(json.getInteger("parent") == llvm::Optional<int64_t>(0));
  CHECK(text(json, "state").empty());
  CHECK(json.getBoolean("executable_deleted") == llvm::Optional<bool>(false));
  REQUIRE(json.getArray("threads"));
  CHECK(json.getArray("threads")->empty());
}

TEST_CASE("a message that is not set is left out, one that is set is there though empty") {
  pb::Process process;
  CHECK(object(process).get("layout") == nullptr);
  process.mutable_layout();
  CHECK(object(process).getObject("layout") != nullptr);
}

TEST_CASE("of a oneof only the member that is set is there") {
  pb::Descriptor descriptor;
  descriptor.mutable_pipe()->set_capacity(65536);
  const auto json = object(descriptor);
  REQUIRE(json.getObject("pipe"));
  CHECK(json.getObject("pipe")->getInteger("capacity") == llvm::Optional<int64_t>(65536));
  CHECK(json.get("socket") == nullptr);
}

TEST_CASE("bytes are text made harmless, or hexadecimal where the schema says blob") {
  pb::Thread thread;
  thread.set_name("caf\xc3\xa9\n\xff");
  thread.set_registers(std::string("\x00\xff", 2));
  const auto json = object(thread);
  CHECK(text(json, "name") == "caf\xc3\xa9\\012\\377");
  CHECK(text(json, "registers") == "00ff");
}

TEST_CASE("addresses and masks are strings, other numbers numbers, to the last bit") {
  pb::Vma vma;
  vma.set_start(0xffffffffff600000);
  vma.set_inode(UINT64_MAX);
  const auto json = object(vma);
  CHECK(text(json, "start") == "0xffffffffff600000");
  CHECK(text(json, "end") == "0x0");
  CHECK(json.get("inode")->getAsUINT64() == llvm::Optional<uint64_t>(UINT64_MAX));
}

TEST_CASE("negative numbers, enums by name, and lists in their order") {
  pb::SnapshotRecord record;
  record.set_realtime_ns(-5);
  CHECK(object(record).getInteger("realtime_ns") == llvm::Optional<int64_t>(-5));
  pb::FileRecord file;
  file.set_role(pb::FILE_DEBUG);
  file.mutable_content()->add_source(pb::SOURCE_STORED);
  file.mutable_content()->add_source(pb::SOURCE_MISSING);
  const auto json = object(file);
  CHECK(text(json, "role") == "FILE_DEBUG");
  const auto& sources = *json.getObject("content")->getArray("source");
  REQUIRE(sources.size() == 2);
  CHECK(sources[0].getAsString()->str() == "SOURCE_STORED");
  CHECK(sources[1].getAsString()->str() == "SOURCE_MISSING");
}

TEST_CASE("nested records are walked") {
  pb::Process process;
  process.add_threads()->set_tid(3);
  const auto json = object(process);
  const auto& threads = *json.getArray("threads");
  REQUIRE(threads.size() == 1);
  CHECK(threads[0].getAsObject()->getInteger("tid") == llvm::Optional<int64_t>(3));
}
