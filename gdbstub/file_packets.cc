#include <fmt/format.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "gdbstub/framing.h"
#include "gdbstub/handlers.h"

// vFile: "Host I/O Packets" of gdb's manual. Numbers are hexadecimal in both directions.
namespace snapgdb::gdbstub {
namespace {

// Error numbers of the protocol ("Errno Values"); those below 91 are Linux's.
enum class FileError {
  kNoEntry = 2,
  kInputOutput = 5,
  kBadDescriptor = 9,
  kInvalid = 22,
  kTooManyOpen = 24,
  kReadOnly = 30
};

constexpr size_t kMaxOpen = 1024;

std::string failure(FileError error) {
  return fmt::format("F-1,{:x}", static_cast<int>(error));
}

// "F", a result, and data. `head` is never longer than this.
constexpr size_t kHeadRoom = 32;

std::string success(uint64_t result, std::string_view data) {
  return fmt::format("F{:x};", result).append(data);
}

// Of data that may have to be cut: the result is how much is sent.
std::string success_with(std::string_view data) {
  const size_t sent = fitting(data, kPacketSize - kHeadRoom);
  return success(sent, data.substr(0, sent));
}

void append_big_endian(std::string& out, uint64_t value, size_t size) {
  for (size_t i = size; i-- > 0;) out += static_cast<char>(value >> (8 * i) & 0xff);
}

// struct stat of the protocol: 64 bytes, big-endian.
std::string packed(const FileStatus& status) {
  constexpr uint64_t kBlock = 4096, kUnit = 512;
  std::string out;
  for (const uint64_t field : {status.device, status.inode, uint64_t{status.mode}, uint64_t{1},
                               uint64_t{0}, uint64_t{0}, uint64_t{0}})  // …, links, uid, gid, rdev
    append_big_endian(out, field, 4);
  for (const uint64_t field : {status.size, kBlock, (status.size + kUnit - 1) / kUnit})
    append_big_endian(out, field, 8);
  for (int each = 0; each < 3; ++each)  // access, modification and change
    append_big_endian(out, static_cast<uint64_t>(status.mtime_seconds), 4);
  return out;
}

// Whose view of the file system is meant.
Pid viewer(const SessionState& state) {
  return state.files_seen_by.value != 0 ? state.files_seen_by : state.selected.pid;
}

std::unique_ptr<File> find_file(SessionState& state, const std::string& path) {
  const FileSystem* files = state.target->files();
  if (!files) return nullptr;
  const Pid seen_by = viewer(state);
  const std::string mapped = state.library_files.mapped_as(*state.target, seen_by, path);
  auto file = mapped.empty() ? nullptr : files->open(seen_by, mapped);
  return file ? std::move(file) : files->open(seen_by, path);
}

File* open_file(const SessionState& state, uint64_t number) {
  const auto found = state.open_files.find(number);
  return found == state.open_files.end() ? nullptr : found->second.get();
}

uint64_t free_number(const SessionState& state) {
  uint64_t number = 0;
  while (state.open_files.contains(number)) ++number;
  return number;
}

}  // namespace

// Which process's view of the file system; 0: the stub's own, which we do not show to anybody.
Reply file_setfs(SessionState& state, Scanner arguments) {
  arguments.expect(':');
  state.files_seen_by = arguments.pid();
  return "F0";
}

Reply file_open(SessionState& state, Scanner arguments) {
  arguments.expect(':');
  const std::string path = arguments.hex_text(',');
  const uint64_t flags = arguments.hex();
  if (flags != 0) return failure(FileError::kReadOnly);  // 0: O_RDONLY and nothing else
  if (state.open_files.size() >= kMaxOpen) return failure(FileError::kTooManyOpen);
  auto file = find_file(state, path);
  if (!file) return failure(FileError::kNoEntry);
  const uint64_t number = free_number(state);
  state.open_files.emplace(number, std::move(file));
  return fmt::format("F{:x}", number);
}

Reply file_close(SessionState& state, Scanner arguments) {
  arguments.expect(':');
  return state.open_files.erase(arguments.hex()) ? "F0" : failure(FileError::kBadDescriptor);
}

Reply file_pread(SessionState& state, Scanner arguments) {
  arguments.expect(':');
  const File* file = open_file(state, arguments.hex());
  arguments.expect(',');
  const uint64_t size = arguments.hex();
  arguments.expect(',');
  const uint64_t offset = arguments.hex();
  if (!file) return failure(FileError::kBadDescriptor);
  std::string data(std::min<uint64_t>({size, kPacketSize, state.file_piece}), '\0');
  try {
    data.resize(file->read(offset, std::as_writable_bytes(std::span(data))));
  } catch (const Error&) {  // the image is damaged there
    return failure(FileError::kInputOutput);
  }
  return success_with(data);
}

Reply file_fstat(SessionState& state, Scanner arguments) {
  arguments.expect(':');
  const File* file = open_file(state, arguments.hex());
  if (!file) return failure(FileError::kBadDescriptor);
  return success_with(packed(file->status()));
}

Reply file_stat(SessionState& state, Scanner arguments) {
  arguments.expect(':');
  const auto file = find_file(state, arguments.hex_bytes());
  if (!file) return failure(FileError::kNoEntry);
  return success_with(packed(file->status()));
}

Reply file_readlink(SessionState& state, Scanner arguments) {
  arguments.expect(':');
  const std::string path = arguments.hex_bytes();
  const FileSystem* files = state.target->files();
  const auto link = files ? files->read_link(viewer(state), path) : std::nullopt;
  if (link) return success_with(*link);
  return failure(find_file(state, path) ? FileError::kInvalid : FileError::kNoEntry);
}

Reply file_refuse_write(SessionState&, Scanner) {
  return failure(FileError::kReadOnly);
}

}  // namespace snapgdb::gdbstub
