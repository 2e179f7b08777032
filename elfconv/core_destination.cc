#include "elfconv/core_destination.h"

#include <filesystem>
#include <string_view>
#include <system_error>

#include "core/base/error.h"

namespace snapgdb {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxName = 64;

bool harmless(char c) {
  const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  return letter || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '+' || c == '-';
}

// Whether `output` is to be a directory.
bool is_directory(const std::string& output, size_t processes) {
  std::error_code unknown;
  if (fs::is_directory(output, unknown) || output.ends_with('/')) return true;
  if (processes == 1) return false;
  if (fs::exists(output, unknown))
    throw Error(fmt::format("cannot write {} cores to {}", processes, output), "it is one file",
                "name a directory, or one process with --pid", ExitStatus::kUsage);
  return true;
}

void make_directory(const std::string& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) throw SystemError(fmt::format("cannot create {}", directory), error.value());
}

}  // namespace

std::string core_file_name(const pb::Process& process) {
  std::string name = process.name().substr(0, kMaxName);
  for (char& c : name)
    if (!harmless(c)) c = '_';
  return fmt::format("core.{}.{}", name.empty() ? "_" : name, process.pid());
}

CoreDestination core_destination(const std::string& output,
                                 std::span<const pb::Process* const> processes) {
  CoreDestination destination;
  if (!output.empty() && !is_directory(output, processes.size())) {
    destination.directory = fs::path(output).parent_path().string();
    destination.paths = {output};
    return destination;
  }
  if (!output.empty()) make_directory(output);
  destination.directory = output;
  for (const pb::Process* process : processes)
    destination.paths.push_back((fs::path(output) / core_file_name(*process)).string());
  return destination;
}

}  // namespace snapgdb
