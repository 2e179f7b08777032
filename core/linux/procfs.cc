#include "core/linux/procfs.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "core/base/error.h"
#include "core/base/strings.h"

namespace snapgdb {
namespace {

constexpr std::string_view kDeleted = " (deleted)";

bool consume_suffix(std::string& text, std::string_view suffix) {
  if (!text.ends_with(suffix)) return false;
  text.resize(text.size() - suffix.size());
  return true;
}

// The kernel writes a newline in a mapping's name as \012 (fs/seq_file.c, mangle_path) and nothing
// else, so that a backslash may stand for itself.
std::string unmangle(std::string_view name) {
  if (name.find('\\') == std::string_view::npos) return std::string(name);
  std::string out;
  while (!name.empty()) {
    const bool newline = name.starts_with("\\012");
    out += newline ? '\n' : name[0];
    name.remove_prefix(newline ? 4 : 1);
  }
  return out;
}

uint64_t hex_number(std::string_view text) {
  return parse_number<uint64_t>(text, 16).value_or(0);
}

// "start-end perms offset major:minor inode   name"
std::optional<ProcMapping> parse_mapping_line(std::string_view line) {
  std::string_view rest = line;
  const std::string_view range = next_field(rest), permissions = next_field(rest),
                         offset = next_field(rest), device = next_field(rest),
                         inode = next_field(rest);
  const size_t dash = range.find('-'), colon = device.find(':');
  if (dash == std::string_view::npos || colon == std::string_view::npos || permissions.size() != 4)
    return std::nullopt;
  ProcMapping mapping;
  mapping.start = hex_number(range.substr(0, dash));
  mapping.end = hex_number(range.substr(dash + 1));
  mapping.protection = (permissions[0] == 'r' ? PROT_READ : 0) |
                       (permissions[1] == 'w' ? PROT_WRITE : 0) |
                       (permissions[2] == 'x' ? PROT_EXEC : 0);
  mapping.shared = permissions[3] == 's';
  mapping.offset = hex_number(offset);
  mapping.device_major = static_cast<uint32_t>(hex_number(device.substr(0, colon)));
  mapping.device_minor = static_cast<uint32_t>(hex_number(device.substr(colon + 1)));
  mapping.inode = parse_number<uint64_t>(inode).value_or(0);
  mapping.name = unmangle(rest.substr(std::min(rest.find_first_not_of(' '), rest.size())));
  mapping.deleted = consume_suffix(mapping.name, kDeleted);
  return mapping;
}

using SizeKey = std::pair<std::string_view, MappingSize>;
constexpr SizeKey kSizeKeys[] = {
    {"Rss", MappingSize::kRss},
    {"Pss", MappingSize::kPss},
    {"Shared_Clean", MappingSize::kSharedClean},
    {"Shared_Dirty", MappingSize::kSharedDirty},
    {"Private_Clean", MappingSize::kPrivateClean},
    {"Private_Dirty", MappingSize::kPrivateDirty},
    {"Anonymous", MappingSize::kAnonymous},
    {"Swap", MappingSize::kSwap},
    {"Locked", MappingSize::kLocked},
    {"KernelPageSize", MappingSize::kKernelPageSize},
    {"AnonHugePages", MappingSize::kAnonHugePages},
    {"ShmemPmdMapped", MappingSize::kShmemPmdMapped},
    {"FilePmdMapped", MappingSize::kFilePmdMapped},
    {"Shared_Hugetlb", MappingSize::kSharedHugetlb},
    {"Private_Hugetlb", MappingSize::kPrivateHugetlb},
};

// "Rss:   123 kB", "ProtectionKey: 0", "VmFlags: rd wr"
void parse_attribute(ProcMapping& mapping, std::string_view line) {
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return;
  const std::string_view key = line.substr(0, colon), value = trim(line.substr(colon + 1));
  const std::string_view number = value.substr(0, value.find(' '));
  if (key == "VmFlags")
    mapping.flags = value;
  else if (key == "ProtectionKey")
    mapping.protection_key = parse_number<uint32_t>(number).value_or(0);
  else if (const auto size = std::ranges::find(kSizeKeys, key, &SizeKey::first);
           size != std::end(kSizeKeys))
    mapping.sizes[static_cast<size_t>(size->second)] =
        parse_number<uint64_t>(number).value_or(0) * 1024;
}

std::vector<std::string> list_directory(int directory, const char* name, const std::string& path) {
  Fd fd(::openat(directory, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) throw_errno("cannot list {}/{}", path, name);
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(fd.get()), ::closedir);
  if (!stream) throw_errno("cannot list {}/{}", path, name);
  fd.release();
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(stream.get()))
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  return names;
}

// Files that the kernel shows as one record (single_open(), fs/seq_file.c) or from one buffer: when
// they do not fill what they are read into, that is all of them, and no second read has to tell.
bool is_one_record(std::string_view name) {
  static constexpr std::string_view kNames[] = {"stat",    "status",      "limits",
                                                "cgroup",  "personality", "coredump_filter",
                                                "syscall", "wchan",       "oom_score_adj"};
  return name.starts_with("fdinfo/") || std::ranges::find(kNames, name) != std::end(kNames);
}

// nullopt: it failed, or there is more of it.
std::optional<std::string> read_record(int fd) {
  std::array<char, 4096> block;
  const ssize_t n = ::pread(fd, block.data(), block.size(), 0);
  if (n < 0 || n == std::ssize(block)) return std::nullopt;
  return std::string(block.data(), static_cast<size_t>(n));
}

}  // namespace

ProcStat parse_stat(std::string_view text) {
  const size_t open = text.find('('), close = text.rfind(')');
  if (open == std::string_view::npos || close == std::string_view::npos || close < open)
    throw Error("cannot read /proc/PID/stat", "it has no name in parentheses");
  // By the numbers of proc(5); the state is field 3. One blank stands before each.
  std::array<std::string_view, 53> fields;
  std::string_view rest = trim(text.substr(close + 1));
  for (size_t i = 3; i < fields.size() && !rest.empty(); ++i) {
    const size_t end = std::min(rest.find(' '), rest.size());
    fields[i] = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  const auto field = [&]<typename Number>(size_t number, Number& out) {
    out = parse_number<Number>(fields[number]).value_or(Number{});
  };
  ProcStat stat;
  stat.name = text.substr(open + 1, close - open - 1);
  if (!fields[3].empty()) stat.state = fields[3][0];
  field(4, stat.parent);
  field(5, stat.group);
  field(6, stat.session);
  field(7, stat.terminal);
  field(8, stat.foreground_group);
  field(9, stat.flags);
  field(14, stat.user_ticks);
  field(15, stat.system_ticks);
  field(19, stat.nice);
  field(22, stat.start_ticks);
  field(26, stat.start_code);
  field(27, stat.end_code);
  field(28, stat.start_stack);
  field(39, stat.cpu);
  field(40, stat.realtime_priority);
  field(41, stat.policy);
  field(45, stat.start_data);
  field(46, stat.end_data);
  field(47, stat.start_brk);
  field(48, stat.arg_start);
  field(49, stat.arg_end);
  field(50, stat.env_start);
  field(51, stat.env_end);
  field(52, stat.exit_status);
  return stat;
}

bool ProcMapping::has_flag(std::string_view two_letters) const {
  return has_word(flags, two_letters);
}

std::vector<ProcMapping> parse_mappings(std::string_view text) {
  std::vector<ProcMapping> mappings;
  for (const std::string_view line : split(text, '\n')) {
    // An attribute's first word ends in a colon; a mapping's never does.
    const std::string_view first = line.substr(0, line.find(' '));
    if (first.ends_with(':')) {
      if (!mappings.empty()) parse_attribute(mappings.back(), line);
    } else if (auto mapping = parse_mapping_line(line)) {
      mappings.push_back(std::move(*mapping));
    }
  }
  return mappings;
}

std::optional<CallInProgress> parse_call(std::string_view text) {
  const auto fields = split_blank(trim(text));
  if (fields.size() != 9) return std::nullopt;
  const auto number = parse_number<uint64_t>(fields[0]);
  if (!number) return std::nullopt;
  const auto hex = [&](size_t i) { return hex_number(fields[i].substr(2)); };
  CallInProgress call{*number, {}, hex(7), hex(8)};
  for (size_t i = 0; i < call.arguments.size(); ++i) call.arguments[i] = hex(i + 1);
  return call;
}

namespace {

// The value of that field in the first line from `at` on that has it; then that is its end.
// memmem(3) knows better than std::string_view how to look for a word.
std::optional<std::string_view> find_field(std::string_view text, std::string_view key,
                                           size_t& at) {
  while (at < text.size()) {
    const void* found = ::memmem(text.data() + at, text.size() - at, key.data(), key.size());
    if (!found) return std::nullopt;
    const auto place = static_cast<size_t>(static_cast<const char*>(found) - text.data());
    const size_t line = text.rfind('\n', place) + 1;  // npos + 1 is 0
    const size_t end = std::min(text.find('\n', place), text.size());
    const size_t colon = text.find(':', line);
    at = place + 1;
    if (colon >= end || trim(text.substr(line, colon - line)) != key) continue;
    at = end;
    return trim(text.substr(colon + 1, end - colon - 1));
  }
  return std::nullopt;
}

}  // namespace

// Looked up in the text each time: most of its fields nobody asks for.
std::string_view ProcFields::text(std::string_view key) const {
  size_t at = 0;
  return find_field(text_, key, at).value_or("");
}

uint64_t ProcFields::number(std::string_view key, int base) const {
  std::string_view value = text(key);
  if (base == 16 && value.starts_with("0x")) value.remove_prefix(2);
  return parse_number<uint64_t>(value.substr(0, value.find_first_of(" \t")), base).value_or(0);
}

std::vector<std::string_view> ProcFields::all(std::string_view key) const {
  std::vector<std::string_view> values;
  size_t at = 0;
  while (const auto value = find_field(text_, key, at)) values.push_back(*value);
  return values;
}

void require_proc() {
  std::array<char, 32> self{};
  const ssize_t n = ::readlink("/proc/self", self.data(), self.size());
  const std::string_view number(self.data(), static_cast<size_t>(std::max<ssize_t>(n, 0)));
  if (parse_number<pid_t>(number) == ::getpid()) return;
  throw Error("cannot look at processes",
              n < 0 ? "there is no /proc" : "/proc is that of another pid namespace",
              "mount -t proc proc /proc, in a mount namespace of its own");
}

bool is_own_shortage(int error_number) {
  return error_number == EMFILE || error_number == ENFILE || error_number == ENOMEM;
}

std::optional<ProcDirectory> ProcDirectory::of_if_alive(Pid pid) {
  std::string path = fmt::format("/proc/{}", pid.value);
  Fd fd(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid() && is_own_shortage(errno)) throw_errno("cannot open {}", path);
  if (!fd.valid()) return std::nullopt;
  return ProcDirectory(std::move(fd), std::move(path));
}

ProcDirectory ProcDirectory::of(Pid pid) {
  auto directory = of_if_alive(pid);
  if (!directory) throw SystemError(fmt::format("cannot open /proc/{}", pid.value), errno);
  return std::move(*directory);
}

ProcDirectory ProcDirectory::task(Tid tid) const {
  const std::string name = fmt::format("task/{}", tid.value);
  Fd fd(::openat(this->fd(), name.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) throw_errno("cannot open {}/{}", path(), name);
  return ProcDirectory(std::move(fd), fmt::format("{}/{}", path(), name));
}

Fd ProcDirectory::open(const std::string& name, int flags) const {
  return Fd(::openat(fd(), name.c_str(), flags | O_CLOEXEC));
}

void ProcDirectory::prepare(std::span<const std::string> names) {
  for (const std::string& name : names)
    if (Fd fd = open(name, O_RDONLY); fd.valid()) held_->prepared.emplace_back(name, std::move(fd));
}

std::string ProcDirectory::read(const char* name) const {
  for (const auto& [known, fd] : held_->prepared)
    if (known == name)
      if (auto record = read_record(fd.get())) return std::move(*record);
  const Fd fd = open(name, O_RDONLY);
  if (!fd.valid()) throw_errno("cannot open {}/{}", path(), name);
  if (is_one_record(name))
    if (auto record = read_record(fd.get())) return std::move(*record);
  return read_whole(fd.get(), fmt::format("{}/{}", path(), name));
}

void ProcDirectory::write(const char* name, std::string_view text) const {
  const Fd fd = open(name, O_WRONLY);
  if (!fd.valid()) throw_errno("cannot open {}/{}", path(), name);
  if (::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    throw_errno("cannot write {} to {}/{}", printable(text), path(), name);
}

std::optional<std::string> ProcDirectory::read_if_allowed(const char* name) const {
  try {
    return read(name);
  } catch (const SystemError&) {
    return std::nullopt;
  }
}

std::optional<std::string> ProcDirectory::link_if_allowed(const std::string& name) const {
  std::string target(256, '\0');
  while (true) {
    const ssize_t n = ::readlinkat(fd(), name.c_str(), target.data(), target.size());
    if (n < 0) return std::nullopt;
    if (static_cast<size_t>(n) < target.size()) {
      target.resize(static_cast<size_t>(n));
      return target;
    }
    target.resize(target.size() * 2);  // it may have been cut
  }
}

std::string ProcDirectory::link(const std::string& name) const {
  auto target = link_if_allowed(name);
  if (!target) throw_errno("cannot read the link {}/{}", path(), name);
  return std::move(*target);
}

std::optional<ProcStat> ProcDirectory::stat_if_alive() const {
  const auto text = read_if_allowed("stat");
  return text ? std::optional(parse_stat(*text)) : std::nullopt;
}

std::optional<ProcStat> stat_of_if_alive(Tid tid) {
  const auto task = ProcDirectory::of_if_alive(Pid{tid.value});
  return task ? task->stat_if_alive() : std::nullopt;
}

int32_t innermost(std::string_view numbers) {
  const auto all = split_blank(numbers);
  return all.empty() ? 0 : parse_number<int32_t>(all.back()).value_or(0);
}

std::vector<std::string> ProcDirectory::list(const char* name) const {
  return list_directory(fd(), name, path());
}

std::vector<Tid> ProcDirectory::tasks() const {
  std::vector<Tid> tids;
  for (const std::string& name : list("task"))
    if (const auto tid = parse_number<pid_t>(name)) tids.push_back(Tid{*tid});
  std::ranges::sort(tids);
  return tids;
}

std::vector<Pid> ProcDirectory::children_of(const std::vector<Tid>& tids) const {
  std::vector<Pid> pids;
  for (const Tid tid : tids) {
    // Children hang on the thread that forked them (CONFIG_PROC_CHILDREN).
    const std::string name = fmt::format("task/{}/children", tid.value);
    const std::string text = read_if_allowed(name.c_str()).value_or("");
    for (const std::string_view field : split_blank(text))
      if (const auto pid = parse_number<pid_t>(field)) pids.push_back(Pid{*pid});
  }
  return pids;
}

// "0.00 0.01 0.05 2/131 4711": of 131 tasks 2 run, and 4711 is the last number.
TaskCount TaskCount::now() {
  const Fd fd(::open("/proc/loadavg", O_RDONLY | O_CLOEXEC));
  struct statfs system {};
  if (!fd.valid() || ::fstatfs(fd.get(), &system) != 0 || system.f_type != PROC_SUPER_MAGIC)
    return {};
  const std::string text = read_record(fd.get()).value_or("");
  const auto fields = split_blank(trim(text));
  if (fields.size() != 5) return {};
  return {parse_number<uint64_t>(fields[3].substr(fields[3].find('/') + 1)).value_or(0),
          parse_number<uint64_t>(fields[4]).value_or(0)};
}

std::string wait_channel(const ProcDirectory& task) {
  const std::string channel = task.read_if_allowed("wchan").value_or("0");
  return channel == "0" ? "" : channel;
}

bool has_capability(int number) {
  const ProcFields status(ProcDirectory::of(Pid{::getpid()}).read("status"));
  return (status.number("CapEff", 16) >> number) & 1;
}

}  // namespace snapgdb
