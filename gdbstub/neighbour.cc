#include "gdbstub/neighbour.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <optional>
#include <string_view>

#include "core/base/strings.h"

namespace snapgdb::gdbstub {
namespace {

// Looking costs about as much as a packet; the scheduler moves a client less often than this.
constexpr unsigned kReadsBetweenLooks = 32;

Fd open_stat(int connection) {
  ucred peer{};
  socklen_t size = sizeof peer;
  const bool is_known = getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0;
  if (!is_known || peer.pid <= 0) return Fd();
  return Fd(open(fmt::format("/proc/{}/stat", peer.pid).c_str(), O_RDONLY | O_CLOEXEC));
}

// proc(5): the 39th field, which is the 37th behind the name in parentheses.
std::optional<size_t> processor_in(std::string_view stat) {
  constexpr size_t kProcessor = 36;
  const size_t name_end = stat.rfind(')');
  if (name_end == std::string_view::npos) return std::nullopt;
  const auto fields = split_blank(stat.substr(name_end + 1));
  if (fields.size() <= kProcessor) return std::nullopt;
  return parse_number<size_t>(fields[kProcessor]);
}

}  // namespace

Neighbour::Neighbour(int connection) : stat_(open_stat(connection)) {
  if (sched_getaffinity(0, sizeof allowed_, &allowed_) != 0) stat_.reset();
}

bool Neighbour::look_where() {
  std::array<char, 1024> stat;
  const ssize_t n = pread(stat_.get(), stat.data(), stat.size(), 0);
  const auto processor = n > 0 ? processor_in({stat.data(), static_cast<size_t>(n)}) : std::nullopt;
  if (!processor || !CPU_ISSET(*processor, &allowed_)) return false;
  CPU_ZERO(&beside_);
  CPU_SET(*processor, &beside_);
  return true;
}

ssize_t Neighbour::read(int fd, std::span<char> out) {
  if (stat_.valid() && reads_++ % kReadsBetweenLooks == 0) known_ = look_where();
  if (known_) sched_setaffinity(0, sizeof beside_, &beside_);
  const ssize_t n = ::read(fd, out.data(), out.size());
  const int error = errno;
  if (known_) sched_setaffinity(0, sizeof allowed_, &allowed_);
  errno = error;
  return n;
}

}  // namespace snapgdb::gdbstub
