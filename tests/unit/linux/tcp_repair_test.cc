#include "core/linux/tcp_repair.h"

#include <catch2/catch.hpp>
#include <string>

namespace snapgdb {
namespace {

// 100 bytes from `first` on are to be acknowledged; the last 60 have not been sent.
TcpConnection sender(uint32_t first) {
  TcpConnection from;
  from.send_sequence = first;
  from.send_queue = std::string(50, 'a') + std::string(50, 'b');
  from.unsent = 60;
  from.window = tcp_repair_window{};
  from.window->snd_wnd = 70;
  return from;
}

// The other end, which expects `next`.
TcpConnection receiver(uint32_t next) {
  TcpConnection to;
  to.receive_queue = std::string(30, 'x');
  to.receive_sequence = next - 30;
  to.window = tcp_repair_window{};
  return to;
}

TEST_CASE("what has arrived at the other end is not sent again, nor taken for unsent") {
  for (const uint32_t first : {uint32_t{1000}, uint32_t{0} - 20}) {  // the numbers begin anew
    TcpConnection from = sender(first);
    forget_what_has_arrived(from, receiver(first + 55));  // 15 more than it had sent
    CHECK(from.send_sequence == first + 55);
    CHECK(from.send_queue == std::string(45, 'b'));
    CHECK(from.unsent == 45);
    CHECK(from.window->snd_wnd == 15);  // it ends where it did
  }
}

TEST_CASE("what was sent and has not arrived stays to be sent again") {
  TcpConnection from = sender(1000);
  forget_what_has_arrived(from, receiver(1010));
  CHECK(from.send_queue.size() == 90);
  CHECK(from.unsent == 60);
  CHECK(from.window->snd_wnd == 60);
  forget_what_has_arrived(from, receiver(1100));
  CHECK(from.send_queue.empty());
  CHECK(from.unsent == 0);
  CHECK(from.window->snd_wnd == 0);
}

TEST_CASE("nothing is forgotten where the other end is not known, or says what cannot be") {
  for (const uint32_t next : {999u, 1101u, 1000u}) {
    TcpConnection from = sender(1000);
    forget_what_has_arrived(from, receiver(next));
    CHECK(from.send_queue.size() == 100);
    CHECK(from.unsent == 60);
  }
  TcpConnection from = sender(1000), to = receiver(1050);
  to.window.reset();  // who read it had no right to more
  forget_what_has_arrived(from, to);
  CHECK(from.send_queue.size() == 100);
}

}  // namespace
}  // namespace snapgdb
