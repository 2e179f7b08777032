#include "core/base/fd.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <vector>

#include "core/base/error.h"

using namespace snapgdb;

TEST_CASE("an Fd closes what it owns, once") {
  int number = -1;
  {
    Fd fd(::open("/dev/null", O_RDONLY));
    number = fd.get();
    Fd other = std::move(fd);
    CHECK_FALSE(fd.valid());
    CHECK(other.get() == number);
  }
  CHECK(::fcntl(number, F_GETFD) == -1);
}

TEST_CASE("a read ends at the end of the file, not before") {
  const Fd fd = memory_file("test", "0123456789");
  std::vector<std::byte> buffer(4);
  CHECK(pread_upto(fd.get(), buffer, 8, "it") == 2);
  CHECK(pread_upto(fd.get(), buffer, 4, "it") == 4);
  CHECK(pread_upto(fd.get(), buffer, 10, "it") == 0);
}

TEST_CASE("a file in /proc is read whole though it says that it is empty") {
  const Fd fd(::open("/proc/self/maps", O_RDONLY));
  const std::string text = read_whole(fd.get(), "maps");
  CHECK(text.find("[stack]") != std::string::npos);
  CHECK(text.ends_with('\n'));
}

TEST_CASE("a file larger than the limit is an error, not a lot of memory") {
  const Fd fd(::open("/dev/zero", O_RDONLY));
  CHECK_THROWS_AS(read_whole(fd.get(), "/dev/zero", 1 << 20), Error);
}

TEST_CASE("an error says what was tried, why it failed and what helps") {
  const Error error("cannot open x", "it is gone", "look elsewhere");
  CHECK(std::string(error.what()) == "cannot open x: it is gone (look elsewhere)");
  CHECK(std::string(error.within("show").what()) ==
        "show: cannot open x: it is gone (look elsewhere)");
  errno = ENOENT;
  try {
    throw_errno("cannot open {}", "y");
  } catch (const SystemError& system_error) {
    CHECK(std::string(system_error.what()) == "cannot open y: No such file or directory");
    CHECK(system_error.error_number() == ENOENT);
  }
}
