#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "target.h"

namespace unix_sockets {

// What was set up, and how it is checked.
class Checks {
 public:
  std::string path(const char* name) const { return scratch_.path(name); }
  void add(std::function<void()> check) { checks_.push_back(std::move(check)); }
  void run() const {
    for (const auto& check : checks_) check();
  }

 private:
  target::ScratchDirectory scratch_;
  std::vector<std::function<void()>> checks_;
};

std::string pattern(size_t size, uint64_t seed);
std::pair<int, int> make_pair(int type);
void set_option(int fd, int name, int value);
int get_option(int fd, int name);
size_t queued(int fd);
int has_input(int fd);

// Names: a path, or an abstract one with its leading NUL; "": none.
bool is_path(const std::string& name);
void bind_to(int fd, const std::string& name);
void connect_to(int fd, const std::string& name);
std::string name_of(int fd);
std::string peer_name_of(int fd);
struct ucred peer_of(int fd);

void send_all(int fd, const std::string& bytes);
void send_to(int fd, const std::string& name, const std::string& bytes);
void send_files(int fd, const std::string& bytes, const std::vector<int>& files);
void send_as(int fd, const std::string& bytes, struct ucred credentials);

// Complain where it is otherwise. What is expected of a stream is read in as many pieces as it
// takes; of a datagram, in one.
void expect_received(const char* what, int fd, const std::string& expected, size_t at_most = 0);
void expect_datagram(const char* what, int fd, const std::string& expected,
                     const std::string& sender);
void expect_empty(const char* what, int fd);
void expect_end(const char* what, int fd);
void expect_name(const char* what, const std::string& seen, const std::string& expected);
void expect_credentials(int fd, const std::string& expected, struct ucred credentials);
// As many descriptors as expected; -1 where there is none.
std::vector<int> receive_files(const char* what, int fd, const std::string& expected, size_t count);

}  // namespace unix_sockets
