// How unix sockets are made again: with their connections, names and queues, and so that the kernel
// keeps of each who made it (SO_PEERCRED).
//
// A connection whose end has a name is made by connecting to a listening socket of that name, be it
// one of the tree or one for a moment; others are pairs. An end that is gone is made, too, and
// closed at last. Names that no file bears any more are bound in a file system that nobody sees.

#include "core/resource/unix_network.h"
#include "core/resource/mounts.h"

#include <fcntl.h>
#include <linux/un.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <filesystem>
#include <set>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/stand_in.h"
#include "core/linux/task.h"
#include "core/resource/spaces.h"

namespace snapgdb {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kShutReceive = 1, kShutSend = 2;

bool is_unix(const pb::Descriptor& descriptor) {
  return descriptor.has_socket() && descriptor.socket().domain() == AF_UNIX;
}
bool is_listening(const pb::Socket& socket) {
  return socket.state() == "listening";
}
bool is_connected(const pb::Socket& socket) {
  return !socket.remote_address().empty();
}
bool is_datagram(const pb::Socket& socket) {
  return socket.type() == SOCK_DGRAM;
}
std::string name_of(const pb::Socket& socket) {
  return unix_name(socket.local_address());
}
std::string remote_name_of(const pb::Socket& socket) {
  return unix_name(socket.remote_address());
}
bool is_path(const std::string& name) {
  return !name.empty() && name[0] != '\0';
}
// Others find it by its name. That of a connection leads to who listened, or to nobody.
bool owns_name(const pb::Socket& socket) {
  return !name_of(socket).empty() && (is_datagram(socket) || !is_connected(socket));
}
bool has_file(const pb::Socket& socket) {
  return owns_name(socket) && socket.has_file() && !socket.file().gone();
}

// The first of the snapshot's unix sockets for which `is_it` holds.
const pb::Descriptor* find_socket(const Snapshot& snapshot, const auto& is_it) {
  const pb::Descriptor* found = nullptr;
  for (const pb::Process& process : snapshot.processes())
    for_each_descriptor(process, [&](const pb::Descriptor& descriptor) {
      if (!found && is_unix(descriptor) && is_it(descriptor)) found = &descriptor;
    });
  return found;
}

bool is_in_tree(const Snapshot& snapshot, uint64_t inode) {
  return inode != 0 &&
         find_socket(snapshot, [&](const pb::Descriptor& other) { return other.inode() == inode; });
}

// Connected to a listening socket of the tree, which has not accepted it.
bool waits_in_tree(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  return find_socket(snapshot, [&](const pb::Descriptor& other) {
    const auto& waiting = other.socket().waiting();
    return std::ranges::find(waiting, descriptor.inode()) != waiting.end();
  });
}

bool lost_its_peer(const pb::Socket& socket) {
  return socket.peer_inode() == 0 &&
         (is_datagram(socket) || socket.shutdown() == (kShutReceive | kShutSend));
}

// ---- System calls -------------------------------------------------------------------------------

Fd make_socket(int type) {
  Fd socket(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  if (!socket.valid()) throw_errno("cannot make a unix socket");
  return socket;
}

std::pair<const sockaddr*, socklen_t> address_in(const std::string& bytes) {
  return {reinterpret_cast<const sockaddr*>(bytes.data()), static_cast<socklen_t>(bytes.size())};
}

Fd open_directory(int base, const std::string& path) {
  Fd directory(::openat(base, path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid()) throw_errno("cannot open {}", printable(path));
  return directory;
}

// A file system in memory that is mounted nowhere.
Fd make_hidden_files() {
  const Fd context(::fsopen("tmpfs", FSOPEN_CLOEXEC));
  if (!context.valid() || ::fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    throw_errno("cannot make a file system for the names of sockets");
  Fd files(::fsmount(context.get(), FSMOUNT_CLOEXEC, 0));
  if (!files.valid()) throw_errno("cannot make a file system for the names of sockets");
  return files;
}

// From where a name leads to a socket.
struct Place {
  Fd root, directory;  // not valid: ours
};

struct End {
  const pb::Descriptor* record = nullptr;
  End* peer = nullptr;
  bool temporary = false;  // none of the tree's
  Fd fd;
  Place place;
  bool connected = false;

  const pb::Socket& socket() const { return record->socket(); }
  bool is_mutual() const { return peer && peer != this && peer->peer == this; }
};

}  // namespace

// ---- All sockets of a tree ----------------------------------------------------------------------

class UnixNetwork {
 public:
  explicit UnixNetwork(OpeningContext& context)
      : snapshot_(context.snapshot),
        spaces_(*context.spaces),
        numbers_(context.numbers),
        notes_(context.notes) {
    find_ends();
    find_peers();
    for (End* end : all_)
      if (is_datagram(end->socket())) make_datagram(*end);
    for (End* end : all_)
      if (!end->fd.valid() && !is_connected(end->socket())) make_unconnected(*end);
    for (End* end : all_)
      if (!end->fd.valid() && !is_datagram(end->socket())) make_connection(*end);
    for (End* end : all_)
      if (is_listening(end->socket())) listen(*end, end->socket().peer_credentials());
  }

  Fd duplicate(const pb::Descriptor& descriptor) const {
    const auto end = ends_.find(descriptor.inode());
    if (end == ends_.end())
      throw Error("cannot make " + printable(descriptor.target()), "it is not known");
    Fd same(::fcntl(end->second.fd.get(), F_DUPFD_CLOEXEC, 0));
    if (!same.valid()) throw_errno("cannot duplicate a socket");
    return same;
  }

  // Once everything that messages hold is open.
  void finish(OpeningContext& context, const RestorePlan& plan, std::span<const Fd> files) {
    plan_ = &plan, files_ = files;
    for (End* end : all_) enlarge(*end);
    for (End* end : all_)
      if (is_datagram(end->socket())) fill_datagram(*end);
    for (End* end : all_)
      if (!is_datagram(end->socket()) && end->peer) send_all(*end, end->socket().queue());
    for (End* end : all_) connect_waiting(*end);
    for (End* end : all_) part(*end);
    for (End* end : all_)
      if (!end->temporary) finish(context, *end);
  }

 private:
  // ---- Who there is -----------------------------------------------------------------------------

  void find_ends() {
    for (const pb::Process& process : snapshot_.processes())
      for_each_descriptor(process, [&](const pb::Descriptor& descriptor) {
        if (!is_unix(descriptor) || !descriptor.socket().why_incomplete().empty() ||
            !unix_obstacle(snapshot_, descriptor).empty())
          return;
        const auto [end, is_new] = ends_.try_emplace(descriptor.inode());
        if (is_new) all_.push_back(&end->second);
        // What is queued is at one descriptor only.
        if (is_new || !descriptor.socket().queue().empty()) end->second.record = &descriptor;
      });
  }

  void find_peers() {
    for (auto& [inode, end] : ends_) {
      const auto peer = ends_.find(end.socket().peer_inode());
      if (peer != ends_.end()) end.peer = &peer->second;
    }
    const std::vector<End*> known = all_;
    for (End* end : known)
      if (!end->peer && is_connected(end->socket()) && has_lost_peer(*end)) imitate_peer_of(*end);
  }

  // Also if the peer is left out.
  bool has_lost_peer(const End& end) const {
    return lost_its_peer(end.socket()) ||
           (!is_datagram(end.socket()) && !waits_in_tree(snapshot_, *end.record));
  }

  // Of a datagram socket that has a name, whoever was connected to it is not known.
  void imitate_peer_of(End& end) {
    pb::Descriptor& record = records_.emplace_back();
    pb::Socket& socket = *record.mutable_socket();
    record.set_target("the other end of " + end.record->target());
    socket.set_type(end.socket().type());
    socket.set_local_address(end.socket().remote_address());
    End& peer = imitated_.emplace_back();
    peer.record = &record, peer.temporary = true;
    end.peer = &peer;
    if (!is_datagram(end.socket()) || name_of(socket).empty()) {
      peer.peer = &end;
      socket.set_remote_address(end.socket().local_address());
    }
    all_.push_back(&peer);
  }

  // ---- As whom, and from where ------------------------------------------------------------------

  int32_t tree_number_of(int32_t pid) const {
    const pb::Process* process = snapshot_.process(pid);
    return process ? tree_number(snapshot_, *process) : pid;
  }

  // nullopt: it is done.
  static std::optional<std::string> why_not_by(const StandIn& who,
                                               const std::function<void()>& work) {
    try {
      perform_by(who, work);
      return std::nullopt;
    } catch (const NoStandIn& error) {
      return error.what();
    }
  }

  // `credentials`: struct ucred, or "".
  void perform_as(const std::string& credentials, const Place* place,
                  const std::function<void()>& work) {
    StandIn who;
    if (place) who.root = place->root.get(), who.directory = place->directory.get();
    const StandIn as_ourselves = who;
    ucred known{};
    if (credentials.size() == sizeof known) {
      std::memcpy(&known, credentials.data(), sizeof known);
      who.pid = tree_number_of(known.pid), who.user = numbers_.user(known.uid),
      who.group = numbers_.group(known.gid);
    }
    if (who.pid) {
      const auto why = why_not_by(who, work);
      if (!why) return;
      who.pid = 0;
      const bool is_by_user = !why_not_by(who, work);
      if (unknown_.insert(credentials).second)
        notes_.push_back(fmt::format("sockets tell another {} than process {}, user {}: {}",
                                     is_by_user ? "number" : "maker", known.pid, known.uid, *why));
      if (is_by_user) return;
    }
    if (!place || (who.root < 0 && who.directory < 0)) return work();
    perform_by(as_ourselves, work);
  }

  // A root directory of its own for each name.
  Place hidden_place(const std::string& name) {
    if (!hidden_.valid()) hidden_ = make_hidden_files();
    const std::string root = std::to_string(hidden_count_++);
    const std::string path = root + "/" + name;
    for (size_t slash = path.find('/'); slash != std::string::npos;
         slash = path.find('/', slash + 1))
      if (::mkdirat(hidden_.get(), path.substr(0, slash).c_str(), 0755) != 0 && errno != EEXIST)
        throw_errno("cannot make a directory for the name of a socket");
    return {open_directory(hidden_.get(), root), open_directory(hidden_.get(), root)};
  }

  // From where its name leads to its file; nullopt: from nowhere that is known.
  static std::optional<Place> place_of_file(const pb::Socket& socket) {
    std::string name = name_of(socket);
    while (name.starts_with("./")) name.erase(0, 2);
    const std::string& path = socket.file().path();
    if (!path.ends_with(name)) return std::nullopt;
    const std::string base = path.substr(0, path.size() - name.size());
    Place place;
    if (name.starts_with('/') && !base.empty()) place.root = open_directory(AT_FDCWD, base);
    if (!name.starts_with('/')) place.directory = open_directory(AT_FDCWD, base);
    return place;
  }

  void bind_at(const Fd& fd, const std::string& address, const Place* place) {
    perform_as("", place, [&] {
      const auto [bytes, size] = address_in(address);
      if (::bind(fd.get(), bytes, size) != 0)
        throw_errno("cannot bind a socket to {}", printable(unix_name(address)));
    });
  }

  // What its name means is told by the mounts of who has it.
  bool is_below(const End& end) const {
    return std::ranges::any_of(snapshot_.processes(), [&](const pb::Process& process) {
      return snapgdb::is_below(snapshot_, mounts_of(snapshot_, process)) &&
             std::ranges::count(process.descriptors(), end.record->inode(), &pb::Descriptor::inode);
    });
  }

  void bind(End& end) {
    const std::string name = name_of(end.socket());
    if (!is_path(name)) {
      if (!name.empty()) bind_at(end.fd, end.socket().local_address(), nullptr);
      return;
    }
    std::optional<Place> place;
    if (!end.temporary && has_file(end.socket()) && !is_below(end))
      place = place_of_file(end.socket());
    if (!place) {
      if (is_below(end))
        notes_.push_back(fmt::format(
            "{}, to which {} is bound, is in a mount namespace below: nobody finds it there",
            printable(name), printable(end.record->target())));
      else if (!end.temporary && owns_name(end.socket()) && !name.starts_with('/'))
        notes_.push_back(fmt::format(
            "{}, to which {} is bound, is not there: it was removed, or lay where nobody told",
            printable(name), printable(end.record->target())));
      end.place = hidden_place(name);
      return bind_at(end.fd, end.socket().local_address(), &end.place);
    }
    end.place = std::move(*place);
    bind_to_file(end);
  }

  // What lies there is what the program saw, or what a socket has left that was bound to it.
  void bind_to_file(End& end) {
    const pb::SocketFile& file = end.socket().file();
    struct stat status {};
    if (::lstat(file.path().c_str(), &status) == 0 && S_ISSOCK(status.st_mode) &&
        ::unlink(file.path().c_str()) != 0)
      throw_errno("cannot remove {}", printable(file.path()));
    bind_at(end.fd, end.socket().local_address(), &end.place);
    if (::chmod(file.path().c_str(), file.mode() & 07777) != 0)
      throw_errno("cannot set the rights of {}", printable(file.path()));
    const uint32_t owner = numbers_.user(file.owner()), group = numbers_.group(file.group());
    const bool is_ours = owner == ::geteuid() && group == ::getegid();
    if (!is_ours && ::lchown(file.path().c_str(), owner, group) != 0)
      notes_.push_back(fmt::format("{} belongs to another user than {}: {}", printable(file.path()),
                                   file.owner(), errno_text(errno)));
  }

  // ---- Sockets and connections ------------------------------------------------------------------

  Fd make_socket_of(const pb::Socket& record, int type) const {
    Fd made;
    spaces_.in("net", record.network_namespace(), [&] { made = make_socket(type); });
    return made;
  }
  Fd make_socket_of(const pb::Socket& record) const {
    return make_socket_of(record, record.type());
  }

  void make_unconnected(End& end) {
    end.fd = make_socket_of(end.socket());
    bind(end);
  }

  void make_pair(End& one, End& other) {
    spaces_.in("net", one.socket().network_namespace(), [&] {
      perform_as(one.socket().peer_credentials(), nullptr, [&] {
        int ends[2];
        if (::socketpair(AF_UNIX, one.socket().type() | SOCK_CLOEXEC, 0, ends) != 0)
          throw_errno("cannot make a pair of sockets");
        one.fd.reset(ends[0]), other.fd.reset(ends[1]);
      });
    });
    one.connected = other.connected = true;
  }

  void make_datagram(End& end) {
    if (!end.fd.valid() && end.is_mutual()) make_pair(end, *end.peer);
    if (!end.fd.valid()) end.fd = make_socket_of(end.socket(), SOCK_DGRAM);
    bind(end);
  }

  void listen(End& end, const std::string& credentials) {
    perform_as(credentials, nullptr, [&] {
      if (::listen(end.fd.get(), static_cast<int>(end.socket().backlog())) != 0)
        throw_errno("cannot listen as {}", printable(end.socket().local()));
    });
  }

  End* listener_named(const pb::Socket& like, const std::string& address) {
    const auto found = std::ranges::find_if(all_, [&](const End* end) {
      return is_listening(end->socket()) && end->socket().type() == like.type() &&
             end->socket().local_address() == address;
    });
    return found == all_.end() ? nullptr : *found;
  }

  // Which of both was accepted: it has the name of who listened.
  bool was_accepted(const End& end) {
    if (name_of(end.socket()).empty()) return false;
    if (name_of(end.peer->socket()).empty()) return true;
    if (listener_named(end.socket(), end.socket().local_address())) return true;
    if (listener_named(end.socket(), end.peer->socket().local_address())) return false;
    // It is the younger of the two.
    return end.peer->temporary || end.record->inode() > end.peer->record->inode();
  }

  void make_connection(End& end) {
    if (!end.peer) {  // it waits to be accepted
      end.fd = make_socket_of(end.socket());
      return bind(end);
    }
    if (name_of(end.socket()).empty() && name_of(end.peer->socket()).empty())
      return make_pair(end, *end.peer);
    was_accepted(end) ? connect(*end.peer, end) : connect(end, *end.peer);
  }

  void connect(End& from, End& to) {
    from.fd = make_socket_of(from.socket());
    bind(from);
    End momentary;
    End* listener = listener_named(to.socket(), to.socket().local_address());
    if (!listener) {
      momentary.record = to.record, momentary.temporary = true;
      momentary.fd = make_socket_of(to.socket());
      bind(momentary);
      listener = &momentary;
    }
    listen(*listener, from.socket().peer_credentials());
    connect_to(from, *listener, to.socket().peer_credentials());
    to.fd.reset(::accept4(listener->fd.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!to.fd.valid()) throw_errno("cannot accept a connection");
    from.connected = to.connected = true;
  }

  void connect_to(End& from, const End& to, const std::string& credentials) {
    perform_as(credentials, &to.place, [&] {
      const auto [address, size] = address_in(to.socket().local_address());
      if (::connect(from.fd.get(), address, size) != 0)
        throw_errno("cannot connect to {}", printable(name_of(to.socket())));
    });
    from.connected = true;
  }

  // ---- Messages ---------------------------------------------------------------------------------

  // So that everything fits that did, also where one sends now what several had sent.
  static void enlarge(End& end) {
    const int size = 1 << 28;
    for (const int name : {SO_SNDBUF, SO_SNDBUFFORCE})
      ::setsockopt(end.fd.get(), SOL_SOCKET, name, &size, sizeof size);
  }

  int file_of(uint32_t description) const {
    const auto found = plan_->by_description.find(description);
    if (found == plan_->by_description.end() || !files_[found->second].valid())
      throw Error("cannot send a message again", "a descriptor in it is not in the image");
    return files_[found->second].get();
  }

  // With descriptors and, performed by who it shows, credentials.
  void send(const Fd& from, const pb::QueuedMessage& message, const std::string* address) {
    std::vector<int> files;
    for (const uint32_t description : message.descriptions()) files.push_back(file_of(description));
    std::string companions;
    const auto add = [&](int type, const void* data, size_t size) {
      const size_t at = companions.size();
      companions.resize(at + CMSG_SPACE(size));
      cmsghdr header{.cmsg_len = CMSG_LEN(size), .cmsg_level = SOL_SOCKET, .cmsg_type = type};
      std::memcpy(companions.data() + at, &header, sizeof header);
      std::memcpy(companions.data() + at + CMSG_LEN(0), data, size);
    };
    if (!files.empty()) add(SCM_RIGHTS, files.data(), files.size() * sizeof(int));
    if (!message.credentials().empty()) {
      const ucred sender{static_cast<pid_t>(::syscall(SYS_getpid)), ::geteuid(), ::getegid()};
      add(SCM_CREDENTIALS, &sender, sizeof sender);
    }
    std::string content = message.content();
    do {
      iovec data{content.data(), content.size()};
      msghdr header{};
      if (address)
        header.msg_name = const_cast<char*>(address->data()),
        header.msg_namelen = static_cast<socklen_t>(address->size());
      header.msg_iov = &data, header.msg_iovlen = 1;
      header.msg_control = companions.empty() ? nullptr : companions.data();
      header.msg_controllen = companions.size();
      const ssize_t sent = ::sendmsg(
          from.get(), &header,
          MSG_DONTWAIT | MSG_NOSIGNAL | (message.out_of_band() ? static_cast<int>(MSG_OOB) : 0));
      if (sent < 0) throw_errno("cannot send a message of {} bytes again", content.size());
      content.erase(0, static_cast<size_t>(sent));
      companions.clear();
    } while (!content.empty());
  }

  // To one end of a connection, by the other.
  void send_all(End& to, const auto& messages) {
    for (const pb::QueuedMessage& message : messages)
      perform_as(message.credentials(), nullptr, [&] { send(to.peer->fd, message, nullptr); });
  }

  // Who sent a datagram: whoever has that name, or one who has it for a moment.
  End& sender_of(const pb::QueuedMessage& message, End& to) {
    const std::string name = unix_name(message.sender());
    if (to.peer && to.connected && name_of(to.peer->socket()) == name) return *to.peer;
    const auto found = std::ranges::find_if(all_, [&](const End* end) {
      return is_datagram(end->socket()) && name_of(end->socket()) == name &&
             (!name.empty() || end->peer == &to);
    });
    if (found != all_.end()) return **found;
    const auto [known, is_new] = senders_.try_emplace(name, nullptr);
    if (is_new) {
      pb::Descriptor& record = records_.emplace_back();
      record.mutable_socket()->set_type(SOCK_DGRAM);
      record.mutable_socket()->set_local_address(message.sender());
      End& sender = imitated_.emplace_back();
      sender.record = &record, sender.temporary = true;
      make_unconnected(sender);
      enlarge(sender);
      known->second = &sender;
    }
    return *known->second;
  }

  void send_datagram(End& to, const pb::QueuedMessage& message) try {
    const End& from = sender_of(message, to);
    const std::string& address = to.socket().local_address();
    const bool by_name = !(from.connected && from.peer == &to);
    perform_as(message.credentials(), by_name ? &to.place : nullptr,
               [&] { send(from.fd, message, by_name ? &address : nullptr); });
  } catch (const SystemError& error) {
    notes_.push_back(fmt::format("{} lacks a message of {} bytes: {}",
                                 printable(to.record->target()), message.content().size(),
                                 error.what()));
  }

  // Who is connected hears nobody else; so what others sent came before. And nobody can connect to
  // one that is connected elsewhere.
  void fill_datagram(End& end) {
    if (!filled_.insert(&end).second) return;
    for (End* other : all_)
      if (other->peer == &end && !other->connected && is_datagram(other->socket()))
        fill_datagram(*other);
    const auto& queue = end.socket().queue();
    const auto is_from_peer = [&](const pb::QueuedMessage& message) {
      return unix_name(message.sender()) == remote_name_of(end.socket());
    };
    int first_from_peer = queue.size();
    while (first_from_peer > 0 && is_from_peer(queue[first_from_peer - 1])) --first_from_peer;
    for (int i = 0; i < queue.size(); ++i) {
      if (i == first_from_peer) connect_datagram(end);
      send_datagram(end, queue[i]);
    }
    connect_datagram(end);
  }

  void connect_datagram(End& end) try {
    if (end.connected || !is_connected(end.socket()) || end.temporary) return;
    if (end.peer) return connect_to(end, *end.peer, end.socket().peer_credentials());
    const std::string& remote = end.socket().remote_address();
    const auto [address, size] = address_in(remote);
    if (::connect(end.fd.get(), address, size) != 0)
      throw_errno("cannot connect to {}", printable(unix_name(remote)));
    end.connected = true;
  } catch (const SystemError& error) {
    notes_.push_back(
        fmt::format("{} is not connected: {}", printable(end.record->target()), error.what()));
  }

  // ---- At last ----------------------------------------------------------------------------------

  const pb::Process* holder_of(const pb::Descriptor& descriptor) const {
    for (const pb::Process& process : snapshot_.processes())
      for (const pb::Descriptor& other : process.descriptors())
        if (other.inode() == descriptor.inode() && other.has_socket()) return &process;
    return nullptr;
  }

  // Whoever has it has connected it.
  std::string credentials_of_holder(const End& end) const {
    const pb::Process* process = holder_of(*end.record);
    if (!process || process->threads().empty()) return "";
    const pb::Credentials& user = process->threads(0).credentials();
    const ucred credentials{process->pid(), user.euid(), user.egid()};
    return {reinterpret_cast<const char*>(&credentials), sizeof credentials};
  }

  // In the order in which they will be accepted. Of one that is gone, only the end is left.
  void connect_waiting(End& listener) {
    for (const uint64_t inode : listener.socket().waiting()) {
      const auto known = ends_.find(inode);
      if (known != ends_.end()) {
        connect_to(known->second, listener, credentials_of_holder(known->second));
        continue;
      }
      End gone;
      gone.record = listener.record, gone.fd = make_socket_of(listener.socket());
      connect_to(gone, listener, "");
    }
  }

  // From ends that are no more. What they had not read makes them reset the connection.
  void part(End& end) {
    if (!end.temporary) return;
    if (end.peer && !end.peer->temporary && end.peer->socket().state() == kReset && end.is_mutual())
      ::send(end.peer->fd.get(), "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    end.fd.reset();
  }

  void finish(OpeningContext& context, End& end) {
    const pb::Socket& socket = end.socket();
    constexpr int kHow[] = {-1, SHUT_RD, SHUT_WR, SHUT_RDWR};
    const uint32_t shut = socket.shutdown() & (kShutReceive | kShutSend);
    if (shut && ::shutdown(end.fd.get(), kHow[shut]) != 0 && errno != ENOTCONN)
      throw_errno("cannot shut down {}", printable(end.record->target()));
    restore_options(context, end.fd, common_socket_options(), *end.record);
    struct stat now {};
    if (::fstat(end.fd.get(), &now) == 0 && (now.st_mode ^ end.record->mode()) & 07777 &&
        ::fchmod(end.fd.get(), end.record->mode() & 07777) != 0)
      throw_errno("cannot set the rights of {}", printable(end.record->target()));
    const auto flags = static_cast<int>(end.record->flags() & O_NONBLOCK);
    if (::fcntl(end.fd.get(), F_SETFL, flags) != 0)
      throw_errno("cannot set the flags of {}", printable(end.record->target()));
  }

  const Snapshot& snapshot_;
  const NestedSpaces& spaces_;
  const UserNumbers numbers_;
  std::vector<std::string>& notes_;
  std::map<uint64_t, End> ends_;  // of the tree, by inode
  std::deque<End> imitated_;
  std::deque<pb::Descriptor> records_;  // of those
  std::vector<End*> all_;
  std::map<std::string, End*> senders_;  // that nobody else is, by name
  std::set<const End*> filled_;
  std::set<std::string> unknown_;  // credentials that cannot be had
  Fd hidden_;
  size_t hidden_count_ = 0;
  const RestorePlan* plan_ = nullptr;
  std::span<const Fd> files_;
};

// ---- Of SocketFamily ----------------------------------------------------------------------------

std::string unix_obstacle(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  const pb::Socket& socket = descriptor.socket();
  if (!is_connected(socket) || is_in_tree(snapshot, socket.peer_inode()) || lost_its_peer(socket))
    return "";
  if (socket.peer_inode() == 0)
    return waits_in_tree(snapshot, descriptor) ? ""
                                               : "it waits to be accepted from outside of the tree";
  const std::string name = remote_name_of(socket);
  if (!is_datagram(socket) || name.empty()) return "its other end is outside of the tree";
  struct stat status {};
  const bool is_there =
      !is_path(name) || (::stat(name.c_str(), &status) == 0 && S_ISSOCK(status.st_mode));
  return is_there ? "" : printable(name) + ", to which it is connected, is not there";
}

bool is_unix_socket_from_outside(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  const pb::Socket& socket = descriptor.socket();
  return is_connected(socket) && !is_in_tree(snapshot, socket.peer_inode()) &&
         !waits_in_tree(snapshot, descriptor);
}

Fd open_unix_socket(OpeningContext& context, const pb::Descriptor& descriptor) {
  if (!context.unix_sockets) context.unix_sockets = std::make_shared<UnixNetwork>(context);
  return context.unix_sockets->duplicate(descriptor);
}

void finish_unix_sockets(OpeningContext& context, const RestorePlan& plan,
                         std::span<const Fd> files) {
  if (context.unix_sockets) context.unix_sockets->finish(context, plan, files);
}

// ---- Names that others have ---------------------------------------------------------------------

namespace {

bool is_bound_to(const struct stat& file) {
  constexpr uint8_t kEstablished = 1;  // include/net/tcp_states.h
  const auto sockets = unix_sockets(Fd());
  return std::ranges::any_of(sockets, [&](const auto& known) {
    return known.second.file_inode == file.st_ino && known.second.state != kEstablished;
  });
}

bool has_directory(const std::string& path) {
  return fs::is_directory(fs::path(path).parent_path());
}

std::string file_obstacle(const std::string& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) return "";
  if (!S_ISSOCK(status.st_mode)) return "something else lies there";
  return is_bound_to(status) ? "somebody else is bound to it" : "";
}

std::string abstract_obstacle(const pb::Socket& socket) {
  const Fd trial = make_socket(socket.type());
  const auto [address, size] = address_in(socket.local_address());
  return ::bind(trial.get(), address, size) == 0 ? "" : errno_text(errno);
}

}  // namespace

// In a sandbox nobody else has names.
void check_unix_names(const Snapshot& snapshot, RestorePlan& plan) {
  const auto why_not = [&](const pb::Socket& socket) -> std::string {
    if (!is_path(name_of(socket)))
      return plan.isolated || plan.network || is_in_space(plan, socket.network_namespace())
                 ? ""
                 : abstract_obstacle(socket);
    if (!has_file(socket)) return "";
    const auto outside = path_outside(plan.mounts, socket.file().path());
    if (!outside) return "";
    const std::string& path = *outside;
    if (!has_directory(path)) return "its directory is not there";
    return plan.isolated ? "" : file_obstacle(path);
  };
  for (const PlannedFile& file : plan.files) {
    if (file.how != PlannedFile::How::kOpened || !file.descriptor || !is_unix(*file.descriptor))
      continue;
    const pb::Socket& socket = file.descriptor->socket();
    if (!owns_name(socket)) continue;
    if (const std::string why = why_not(socket); !why.empty())
      plan.obstacles.push_back(
          {snapshot.root().pid(), "the name of a socket, " + printable(name_of(socket)), why,
           plan.isolated ? "--without socket" : "--isolated, or --without socket"});
  }
}

}  // namespace snapgdb
