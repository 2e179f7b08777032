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

}  // namespace snapgdb
