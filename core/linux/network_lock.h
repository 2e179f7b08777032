#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/linux/network_address.h"

namespace snapgdb {

// Drops the packets of some TCP connections, in both directions, so that their other ends see a
// delay: a table of nftables of that name, in our network namespace. It stays if it is told to, and
// until somebody removes it.
class NetworkLock {
 public:
  using Connection = std::pair<NetworkAddress, NetworkAddress>;  // our end, the other
  // Throws Error.
  NetworkLock(std::string name, const std::vector<Connection>& connections);
  NetworkLock(const NetworkLock&) = delete;
  NetworkLock& operator=(const NetworkLock&) = delete;
  ~NetworkLock();

  void stay() { stays_ = true; }
  const std::string& name() const { return name_; }
  // "nft delete table inet NAME"
  static std::string command_to_remove(const std::string& name);
  // Returns why there is none to be removed, "" if it was.
  static std::string remove(const std::string& name);

 private:
  std::string name_;
  bool stays_ = false;
};

// The filters of packets (nftables) of the caller's network namespace, as a script for nft(8); and
// "", or why they are not all there.
std::pair<std::string, std::string> list_filters();
// Runs such a script. "": it worked; otherwise what nftables says of it.
std::string set_filters(const std::string& script);

}  // namespace snapgdb
