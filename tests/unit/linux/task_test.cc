#include "core/linux/task.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <catch2/catch.hpp>

namespace snapgdb {
namespace {

Fd new_event() {
  return Fd(eventfd(0, EFD_CLOEXEC));
}

TEST_CASE("descriptors are told apart by what they lead to, not by their numbers") {
  Identities descriptions(Identities::Kind::kFileDescription);
  const Tid self = leader_of(Pid{getpid()});
  const Fd one = new_event(), same(dup(one.get())), other = new_event();
  const uint32_t first = descriptions.of(self, one.get());
  CHECK(descriptions.of(self, same.get()) == first);
  CHECK(descriptions.of(self, other.get()) != first);
}

TEST_CASE("a number of ours that was closed and is another file's does not stand for the first") {
  Identities descriptions(Identities::Kind::kFileDescription);
  const Fd one = new_event();
  const uint32_t first = descriptions.of(leader_of(Pid{getpid()}), one.get());
  Fd ours(dup(one.get()));
  const int number = ours.get();
  CHECK(descriptions.of_ours(number) == first);
  ours.reset();
  const Fd another = new_event();
  REQUIRE(another.get() == number);
  CHECK(descriptions.of_ours(number) != first);
}

}  // namespace
}  // namespace snapgdb
