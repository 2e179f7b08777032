#include "core/resource/unix_makers.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/stand_in.h"
#include "core/resource/restorer.h"
#include "core/resource/unix_records.h"

namespace snapgdb {
namespace {

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

int32_t number_in_tree(const Snapshot& snapshot, int32_t pid) {
  const pb::Process* process = snapshot.process(pid);
  return process ? tree_number(snapshot, *process) : pid;
}

// Makers are given numbers of the first process's pid namespace. Why the one with that number for
// us tells another one then, wherever it was; "" if it does not.
std::string why_of_other_number(const Snapshot& snapshot, int32_t pid) {
  const auto depth = [](const pb::Process& process) { return std::max(process.ns_pids_size(), 1); };
  const int above = depth(snapshot.root());
  const auto is_below = [&](const pb::Process& process) { return depth(process) > above; };
  if (const pb::Process* process = snapshot.process(pid))
    return is_below(*process) ? "it was in a pid namespace below" : "";
  if (above > 1) return "it was not in the tree, so only its number outside is known";
  return std::ranges::any_of(snapshot.processes(), is_below)
             ? "it was not in the tree, and may have been in a pid namespace below"
             : "";
}

// nullopt: it is done.
std::optional<std::string> why_not_by(const StandIn& who, const std::function<void()>& work) {
  try {
    perform_by(who, work);
    return std::nullopt;
  } catch (const NoStandIn& error) {
    return error.what();
  }
}

}  // namespace

std::optional<Place> place_of_file(const pb::Socket& socket) {
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

Fd make_unix_socket(int type) {
  Fd socket(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  if (!socket.valid()) throw_errno("cannot make a unix socket");
  return socket;
}

std::pair<const sockaddr*, socklen_t> address_in(const std::string& bytes) {
  return {reinterpret_cast<const sockaddr*>(bytes.data()), static_cast<socklen_t>(bytes.size())};
}

void UnixMakers::perform_as(const std::string& credentials, const Place* place,
                            const std::function<void()>& work) {
  StandIn who;
  if (place) who.root = place->root.get(), who.directory = place->directory.get();
  const StandIn as_ourselves = who;
  ucred known{};
  if (credentials.size() == sizeof known) {
    std::memcpy(&known, credentials.data(), sizeof known);
    who.pid = number_in_tree(snapshot_, known.pid), who.user = numbers_.user(known.uid),
    who.group = numbers_.group(known.gid);
  }
  if (who.pid) {
    const auto note = [&](const char* what, const std::string& why) {
      if (!why.empty() && unknown_.insert(credentials).second)
        notes_.push_back(fmt::format("sockets tell another {} than process {}, user {}: {}", what,
                                     known.pid, known.uid, why));
    };
    const auto why = why_not_by(who, work);
    if (!why) return note("number", why_of_other_number(snapshot_, known.pid));
    who.pid = 0;
    const bool is_by_user = !why_not_by(who, work);
    note(is_by_user ? "number" : "maker", *why);
    if (is_by_user) return;
  }
  if (!place || (who.root < 0 && who.directory < 0)) return work();
  perform_by(as_ourselves, work);
}

Place UnixMakers::hidden_place(const std::string& name) {
  if (!hidden_.valid()) hidden_ = make_hidden_files();
  const std::string root = std::to_string(hidden_count_++);
  const std::string path = root + "/" + name;
  for (size_t slash = path.find('/'); slash != std::string::npos; slash = path.find('/', slash + 1))
    if (::mkdirat(hidden_.get(), path.substr(0, slash).c_str(), 0755) != 0 && errno != EEXIST)
      throw_errno("cannot make a directory for the name of a socket");
  return {open_directory(hidden_.get(), root), open_directory(hidden_.get(), root)};
}

void UnixMakers::bind(const Fd& fd, const std::string& address, const Place* place) {
  perform_as("", place, [&] {
    const auto [bytes, size] = address_in(address);
    if (::bind(fd.get(), bytes, size) != 0)
      throw_errno("cannot bind a socket to {}", printable(unix_name(address)));
  });
}

void UnixMakers::bind_to_file(const Fd& fd, const pb::Socket& socket, const Place& place) {
  const pb::SocketFile& file = socket.file();
  struct stat status {};
  if (::lstat(file.path().c_str(), &status) == 0 && S_ISSOCK(status.st_mode) &&
      ::unlink(file.path().c_str()) != 0)
    throw_errno("cannot remove {}", printable(file.path()));
  bind(fd, socket.local_address(), &place);
  if (::chmod(file.path().c_str(), file.mode() & 07777) != 0)
    throw_errno("cannot set the rights of {}", printable(file.path()));
  const uint32_t owner = numbers_.user(file.owner()), group = numbers_.group(file.group());
  const bool is_ours = owner == ::geteuid() && group == ::getegid();
  if (!is_ours && ::lchown(file.path().c_str(), owner, group) != 0)
    notes_.push_back(fmt::format("{} belongs to another user than {}: {}", printable(file.path()),
                                 file.owner(), errno_text(errno)));
}

}  // namespace snapgdb
