#include "core/linux/mount_info.h"

#include <sys/mount.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/base/strings.h"
#include "core/linux/device_number.h"

namespace snapgdb {
namespace {

// Blanks and backslashes are "\040" there.
std::string unescaped(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto code = text[i] == '\\' ? parse_number<uint32_t>(text.substr(i + 1, 3), 8)
                                      : std::optional<uint32_t>();
    out += code ? static_cast<char>(*code) : text[i];
    if (code) i += 3;
  }
  return out;
}

constexpr std::pair<std::string_view, uint64_t> kAttributes[] = {
    {"ro", MOUNT_ATTR_RDONLY},
    {"nosuid", MOUNT_ATTR_NOSUID},
    {"nodev", MOUNT_ATTR_NODEV},
    {"noexec", MOUNT_ATTR_NOEXEC},
    {"noatime", MOUNT_ATTR_NOATIME},
    {"nodiratime", MOUNT_ATTR_NODIRATIME},
    {"nosymfollow", MOUNT_ATTR_NOSYMFOLLOW}};

// The kernel says nothing of MOUNT_ATTR_STRICTATIME, and "relatime" of the ordinary.
uint64_t attributes_in(std::string_view words) {
  uint64_t attributes = 0;
  bool has_time = false;
  for (const std::string_view word : split(words, ',')) {
    has_time |= word == "relatime" || word == "noatime";
    for (const auto& [name, flag] : kAttributes)
      if (word == name) attributes |= flag;
  }
  return has_time ? attributes : attributes | MOUNT_ATTR_STRICTATIME;
}

void read_propagation(std::string_view word, MountInfo& mount) {
  if (word == "unbindable") mount.unbindable = true;
  if (word.starts_with("shared:"))
    mount.shared = parse_number<uint32_t>(word.substr(7)).value_or(0);
  if (word.starts_with("master:"))
    mount.master = parse_number<uint32_t>(word.substr(7)).value_or(0);
}

// "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue"
std::optional<MountInfo> parse_line(std::string_view line) {
  const auto words = split_blank(line);
  const auto end = std::ranges::find(words, "-");
  if (end - words.begin() < 6 || words.end() - end < 3) return std::nullopt;
  MountInfo mount;
  mount.id = parse_number<int>(words[0]).value_or(0);
  mount.parent = parse_number<int>(words[1]).value_or(0);
  const size_t colon = words[2].find(':');
  mount.device = make_device(parse_number<uint32_t>(words[2].substr(0, colon)).value_or(0),
                             parse_number<uint32_t>(words[2].substr(colon + 1)).value_or(0));
  mount.root = unescaped(words[3]), mount.point = unescaped(words[4]);
  mount.attributes = attributes_in(words[5]);
  for (auto word = words.begin() + 6; word != end; ++word) read_propagation(*word, mount);
  mount.type = unescaped(end[1]), mount.options = unescaped(words.back());
  if (words.end() - end > 3) mount.source = unescaped(end[2]);  // it may be empty
  return mount;
}

using Children = std::map<int, std::vector<MountInfo>>;  // of each mount, by its number

// What is mounted at /a/b came before what is mounted at /a, on the same mount: afterwards, that
// would have been in between.
void add_sibling(std::vector<MountInfo>& siblings, MountInfo mount) {
  const auto hides_it = [&](const MountInfo& other) {
    return other.point != mount.point && is_at_or_below(mount.point, other.point);
  };
  siblings.insert(std::ranges::find_if(siblings, hides_it), std::move(mount));
}

void append_with_children(MountInfo mount, Children& children, std::vector<MountInfo>& out) {
  auto own = children.extract(mount.id);
  out.push_back(std::move(mount));
  if (own.empty()) return;
  for (MountInfo& child : own.mapped()) append_with_children(std::move(child), children, out);
}

}  // namespace

std::vector<MountInfo> parse_mount_info(std::string_view text) {
  std::vector<MountInfo> mounts;
  for (const std::string_view line : split(text, '\n'))
    if (auto mount = parse_line(line)) mounts.push_back(std::move(*mount));
  std::set<int> known;
  for (const MountInfo& mount : mounts) known.insert(mount.id);
  std::vector<MountInfo> roots, sorted;
  Children children;
  for (MountInfo& mount : mounts) {
    const bool is_root = mount.parent == mount.id || !known.contains(mount.parent);
    add_sibling(is_root ? roots : children[mount.parent], std::move(mount));
  }
  for (MountInfo& root : roots) append_with_children(std::move(root), children, sorted);
  return sorted;
}

bool is_at_or_below(std::string_view path, std::string_view directory) {
  return directory == "/" || path == directory ||
         (path.starts_with(directory) && path[directory.size()] == '/');
}

std::string_view below(std::string_view path, std::string_view directory) {
  if (directory == "/") return path == "/" ? "" : path;
  return path.substr(directory.size());
}

std::string joined(std::string_view directory, std::string_view rest) {
  if (rest.empty()) return std::string(directory);
  return directory == "/" ? std::string(rest) : std::string(directory) + std::string(rest);
}

bool is_on_top(const std::vector<MountInfo>& mounts, const MountInfo& mount) {
  return mount_at(mounts, mount.point) == &mount;
}

// Down from the root: at each mount, into the one on it that leads on.
const MountInfo* mount_at(const std::vector<MountInfo>& mounts, std::string_view path) {
  const MountInfo* at = nullptr;
  for (const MountInfo& mount : mounts) {
    const bool is_root =
        mount.point == "/" && !std::ranges::count(mounts, mount.parent, &MountInfo::id);
    if (is_root) at = &mount;
  }
  while (at) {
    const auto leads_on = [&](const MountInfo& mount) {
      return mount.parent == at->id && &mount != at && is_at_or_below(path, mount.point);
    };
    const MountInfo* next = nullptr;  // the first that is met on the way
    for (const MountInfo& mount : mounts)
      if (leads_on(mount) && (!next || mount.point.size() < next->point.size())) next = &mount;
    if (!next) return at;
    at = next;
  }
  // A root directory below that of the namespace: what is above it is out of sight.
  for (const MountInfo& mount : mounts)
    if (is_at_or_below(path, mount.point) && (!at || mount.point.size() >= at->point.size()))
      at = &mount;
  return at;
}

}  // namespace snapgdb
