#pragma once

#include <linux/netlink.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

struct mnl_socket;

// rtnetlink(7): a conversation with the kernel's routing part, and the form of its messages. These
// are kept from the type's own header (struct ifinfomsg, ifaddrmsg, …) on, with their attributes.
namespace snapgdb {

template <typename Header>
Header header_of(std::string_view message) {
  Header header{};
  std::memcpy(&header, message.data(), std::min(sizeof header, message.size()));
  return header;
}

struct Attribute {
  uint16_t type = 0;
  std::string_view value;

  template <typename T>
  T as() const {
    T number{};
    std::memcpy(&number, value.data(), std::min(sizeof number, value.size()));
    return number;
  }
  std::string text() const { return std::string(value.substr(0, value.find('\0'))); }
};

std::vector<Attribute> attributes_in(std::string_view rest);

template <typename Header>
std::vector<Attribute> attributes_of(std::string_view message) {
  return attributes_in(
      message.substr(std::min<size_t>(NLMSG_ALIGN(sizeof(Header)), message.size())));
}

const Attribute* find(const std::vector<Attribute>& attributes, uint16_t type);

// In the network namespace that the caller is in. Throws SystemError.
class RouteSocket {
 public:
  RouteSocket();

  // `flags`: of the type's header, of neighbours only (NTF_PROXY).
  std::vector<std::string> dump(uint16_t type, uint8_t family, uint8_t flags = 0);
  // `fill` adds to the message. False: errno says why not.
  bool change(uint16_t type, uint16_t flags, const std::function<void(nlmsghdr*)>& fill);
  bool replay(uint16_t type, uint16_t flags, std::string_view message);
  // Of the network namespace that a descriptor leads to: the number by which the caller's knows it
  // (ip-netns(8)); -1: it has none.
  int32_t number_of(int network);

 private:
  nlmsghdr* begin(std::vector<char>& buffer, uint16_t type, uint16_t flags);
  void send(const nlmsghdr* request);
  void receive(const std::function<void(const nlmsghdr*)>& each);

  std::unique_ptr<mnl_socket, int (*)(mnl_socket*)> socket_;
  unsigned sequence_ = 0;
};

}  // namespace snapgdb
