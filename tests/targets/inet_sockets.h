#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <functional>
#include <string>
#include <vector>

#include "target.h"

// Calls on sockets of the network, which end or mark the program where they do not work.
namespace target::inet {

union Address {
  sockaddr any;
  sockaddr_in in;
  sockaddr_in6 in6;
};
// Of this host.
Address loopback(int domain, uint16_t port = 0);
Address name_of(int socket);
int make_socket(int domain, int type);
void bind_to(int socket, const Address& address);
int option(int socket, int level, int name);
void set_option(int socket, int level, int name, int value);
int state_of(int socket);  // TCP_*

std::string pattern(size_t size, uint64_t seed);
void send_all(int socket, const std::string& bytes);
void expect_bytes(const char* what, int socket, const std::string& expected);
void expect_end(const char* what, int socket);

struct Pair {
  int listening, client, server;
};
Pair connect_pair(int domain, const Address& address);
Pair connect_pair();
// Bytes go both ways, and others may still connect.
void expect_alive(const char* what, const Pair& pair);

// What is to be found in the end.
class Checks {
 public:
  void add(std::function<void()> check) { checks_.push_back(std::move(check)); }
  void run() {
    for (const auto& check : checks_) check();
  }

 private:
  std::vector<std::function<void()>> checks_;
};

}  // namespace target::inet
