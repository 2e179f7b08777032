// How unix sockets are made again: with their connections, names and queues, and so that the kernel
// keeps of each who made it (SO_PEERCRED).
//
// A connection whose end has a name is made by connecting to a listening socket of that name, be it
// one of the tree or one for a moment; others are pairs. An end that is gone is made, too, and
// closed at last. Names that no file bears any more are bound in a file system that nobody sees.

#include "core/resource/unix_network.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <set>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/task.h"
#include "core/resource/mounts.h"
#include "core/resource/spaces.h"
#include "core/resource/unix_makers.h"
#include "core/resource/unix_messages.h"
#include "core/resource/unix_records.h"

namespace snapgdb {
namespace {

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
        notes_(context.notes),
        makers_(context.snapshot, context.numbers, context.notes) {
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
    late_ = filled_late(snapshot_, plan);
    for (End* end : all_) give_room(end->fd, kMuchRoom);
    for (End* end : all_)
      if (is_datagram(end->socket())) fill_datagram(*end);
    for (End* end : all_)
      if (!is_datagram(end->socket()) && end->peer)
        is_late(*end) ? hold_sender(*end) : send_all(*end, end->socket().queue());
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

  // ---- Names ------------------------------------------------------------------------------------

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
      if (!name.empty()) makers_.bind(end.fd, end.socket().local_address(), nullptr);
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
      end.place = makers_.hidden_place(name);
      return makers_.bind(end.fd, end.socket().local_address(), &end.place);
    }
    end.place = std::move(*place);
    makers_.bind_to_file(end.fd, end.socket(), end.place);
  }

  // ---- Sockets and connections ------------------------------------------------------------------

  Fd make_socket_of(const pb::Socket& record, int type) const {
    Fd made;
    spaces_.in("net", record.network_namespace(), [&] { made = make_unix_socket(type); });
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
      makers_.perform_as(one.socket().peer_credentials(), nullptr, [&] {
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
    makers_.perform_as(credentials, nullptr, [&] {
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
    makers_.perform_as(credentials, &to.place, [&] {
      const auto [address, size] = address_in(to.socket().local_address());
      if (::connect(from.fd.get(), address, size) != 0)
        throw_errno("cannot connect to {}", printable(name_of(to.socket())));
    });
    from.connected = true;
  }

  // ---- Messages ---------------------------------------------------------------------------------

  bool is_late(const End& end) const { return late_.contains(end.record->inode()); }

  int file_of(uint32_t description) {
    const auto found = plan_->by_description.find(description);
    if (found == plan_->by_description.end() || !files_[found->second].valid())
      throw Error("cannot send a message again", "a descriptor in it is not in the image");
    const PlannedFile& file = plan_->files[found->second];
    if (!file.descriptor || !is_opened_late(snapshot_, *file.descriptor))
      return files_[found->second].get();
    notes_.push_back(
        fmt::format("a descriptor in a message, {}, fails as a lost connection would: it is opened "
                    "when only the other ends of connections can send messages any more",
                    file.what));
    if (!lost_.valid()) lost_ = lost_connection();
    return lost_.get();
  }

  // Performed by who its credentials show.
  void send(const Fd& from, const pb::QueuedMessage& message, const std::string* address) {
    std::vector<int> files;
    for (const uint32_t description : message.descriptions()) files.push_back(file_of(description));
    const ucred sender{static_cast<pid_t>(::syscall(SYS_getpid)), ::geteuid(), ::getegid()};
    send_message(from, message, files, message.credentials().empty() ? nullptr : &sender, address);
  }

  // To one end of a connection, by the other.
  void send_all(End& to, const auto& messages) {
    for (const pb::QueuedMessage& message : messages)
      makers_.perform_as(message.credentials(), nullptr,
                         [&] { send(to.peer->fd, message, nullptr); });
  }

  // Who will send what waits for files that are opened late.
  static void hold_sender(const End& to) {
    pb::QueuedMessage holder;
    holder.set_content("\0", 1);
    send_message(to.peer->fd, holder, {to.peer->fd.get()}, nullptr, nullptr);
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
      give_room(sender.fd, kMuchRoom);
      known->second = &sender;
    }
    return *known->second;
  }

  void send_datagram(End& to, const pb::QueuedMessage& message) try {
    const End& from = sender_of(message, to);
    const std::string& address = to.socket().local_address();
    const bool by_name = !(from.connected && from.peer == &to);
    makers_.perform_as(message.credentials(), by_name ? &to.place : nullptr,
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
    if (is_late(end)) return hold_sender(end);
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
    if (!is_late(end) && !(end.peer && is_late(*end.peer))) shut_down(end.fd, *end.record);
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
  std::vector<std::string>& notes_;
  UnixMakers makers_;
  std::map<uint64_t, End> ends_;  // of the tree, by inode
  std::deque<End> imitated_;
  std::deque<pb::Descriptor> records_;  // of those
  std::vector<End*> all_;
  std::map<std::string, End*> senders_;  // that nobody else is, by name
  std::set<const End*> filled_;
  std::set<uint64_t> late_;  // filled_late()
  Fd lost_;                  // in place of what a message cannot carry
  const RestorePlan* plan_ = nullptr;
  std::span<const Fd> files_;
};

// ---- Of SocketFamily ----------------------------------------------------------------------------

Fd open_unix_socket(OpeningContext& context, const pb::Descriptor& descriptor) {
  if (!context.unix_sockets) context.unix_sockets = std::make_shared<UnixNetwork>(context);
  return context.unix_sockets->duplicate(descriptor);
}

void finish_unix_sockets(OpeningContext& context, const RestorePlan& plan,
                         std::span<const Fd> files) {
  if (context.unix_sockets) context.unix_sockets->finish(context, plan, files);
}

}  // namespace snapgdb
