#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/e2e/restoring.h"

// Servers that nobody here wrote, and small ones in other languages, with clients of theirs.
namespace snapgdb::e2e {

// Everything here that is run is for the shell, in the server's scratch directory, with $PORT free
// on loopback and $HERE the directory of this file.
struct Server {
  std::string name;
  Words programs;     // without which there is no test
  std::string start;  // becomes the server, which stays in the foreground
  std::string ready;  // succeeds as soon as it serves, and fills it
  Words clients;      // repeated while it is captured; each fails at an error or a wrong answer
  Words talks = {};   // each goes on over the connections that it makes first, until there is a
                      // file `stop`; each fails at an error, a wrong answer or a lost connection
  std::string sums = {};       // succeeds if everything adds up in the end
  std::string complaint = {};  // what is in its log if something went wrong: a regular expression
  bool may_be_root = true;
  bool keeps_its_memory_map = true;  // while nobody asks it anything
};

extern const Server kPostgresql, kRedis, kNginx, kNghttpd, kNode, kGo, kJava, kTmux, kThreads,
    kForks, kBus;

// Says what is missing for it, if anything is.
bool can_run(const Server& server);

struct Who {
  uid_t server, snapgdb;
};
// As whom a server runs and is captured: by root, and by the ordinary user whose it is.
std::vector<Who> who_captures(const Server& server);

// A server with its clients in a scratch directory.
class Scene {
 public:
  Scene(const Server& server, uid_t user);
  // What all is started by is the root of one tree, which says "begun", and ends, as the clients
  // do, when its standard input has ended.
  static std::unique_ptr<Scene> in_one_tree(const Server& server, uid_t user);
  // It goes as it should, also when a test fails; what is taken away leaves shared memory behind.
  ~Scene();
  Scene(const Scene&) = delete;

  pid_t pid() const { return server_->pid(); }
  std::string log() const { return server_->out() + server_->err(); }

  Result asks(const std::string& script) { return Running(shell(script)).wait(); }
  // Repeats the script until `stop_clients`.
  Running client(const std::string& script);
  // Starts Server.talks, or some of them, and waits until all have had their first answers.
  std::vector<Running> talks(const Words& scripts);
  void stop_clients();
  void let_clients_ask();
  Running& server() { return *server_; }

  Result end(Seconds patience = kPatience);

 private:
  explicit Scene(uid_t user) : user_(user), port_(std::to_string(free_port())) {}
  Running shell(const std::string& script, RunOptions::Input input = RunOptions::kNothing) const;

  uid_t user_;
  std::string port_;
  TempDir directory_;
  std::unique_ptr<Running> server_;
};

}  // namespace snapgdb::e2e
