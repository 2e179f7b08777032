#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cli/command.h"
#include "core/base/error.h"

namespace snapgdb::cli {
namespace {

constexpr char kProgram[] = "snapgdb-gui";

// The GUI of the same build is preferred to one that is installed; "" if this program's own place
// is not known.
std::string program_beside_us() {
  std::error_code ignored;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", ignored);
  return self.empty() ? "" : (self.parent_path() / kProgram).string();
}

// Becomes the GUI program; returns only to throw.
int become_gui(const std::vector<std::string>& arguments) {
  std::vector<std::string> words{kProgram};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  ::execv(program_beside_us().c_str(), argv.data());
  if (errno == ENOENT) ::execvp(kProgram, argv.data());
  if (errno == ENOENT)
    throw Error("cannot start the GUI",
                fmt::format("{} is neither beside snapgdb nor in PATH", kProgram),
                "install it, or see the same as text with snapgdb show");
  throw_errno("cannot start {}", kProgram);
}

Action define(CLI::App& app) {
  app.footer(
      fmt::format("Usage: snapgdb gui [IMG] [OPTIONS], handed to {0}; see {0} --help.", kProgram));
  app.prefix_command();
  return [&app] { return become_gui(app.remaining()); };
}

}  // namespace

const Command kGuiCommand{"gui", "Browse an image in a window", define};

}  // namespace snapgdb::cli
