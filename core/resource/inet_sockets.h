#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/base/fd.h"
#include "core/image/snapshot.pb.h"
#include "core/linux/network_lock.h"
#include "core/linux/tcp_repair.h"

namespace snapgdb {

struct CaptureContext;

struct NetworkOptions {
  bool ends = false;               // the tree will be killed
  bool keeps_connections = false;  // to outside of the tree: for a restore
};

// The sockets of AF_INET and AF_INET6 of a tree that is stopped.
class InetSockets {
 public:
  // A duplicate of a descriptor, by its open file description. By any thread.
  void add(uint32_t description, Fd socket);
  // The state of connections and what is in queues, into the first descriptor of each. `lock`: the
  // name of what locks the network. Throws Error if that is impossible.
  void read(CaptureContext& context, std::vector<pb::Process>& processes,
            const NetworkOptions& options, const std::string& lock);

  // What a tree that will be killed leaves to be done.
  struct Ends {
    std::vector<Fd> silent;  // connections that end without telling their other ends
    std::unique_ptr<NetworkLock> lock;
    // Just before it is killed: from now on there is a lock until somebody removes it.
    void prepare();
  };
  Ends take_ends() { return std::move(ends_); }

 private:
  struct Entry {
    int32_t pid;
    pb::Descriptor* record;
    const Fd* socket;
    bool is_left = false;  // a connection to outside, which goes its own way
    TcpConnection connection = {};
    std::string why_not = {};
  };
  std::vector<Entry> entries_in(std::vector<pb::Process>& processes) const;
  void read_connections(CaptureContext& context, std::vector<Entry>& connections,
                        const NetworkOptions& options);

  std::mutex mutex_;
  std::map<uint32_t, Fd> sockets_;
  Ends ends_;
};

// As NetworkLock has it.
std::string lock_name(const pb::SnapshotRecord& record);

}  // namespace snapgdb
