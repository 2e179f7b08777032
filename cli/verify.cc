#include "cli/command.h"
#include "core/base/error.h"
#include "core/image/image_reader.h"
#include "core/inspect/words.h"

namespace snapgdb::cli {
namespace {

int run(const std::string& path) {
  const auto image = Image::open(path);
  try {
    image->verify();
  } catch (const Error& error) {
    throw error.within(path);
  }
  fmt::print("{}: whole, {}\n", path, counted(image->snapshots().size(), "snapshot", "snapshots"));
  return 0;
}

Action define(CLI::App& app) {
  auto path = std::make_shared<std::string>();
  app.add_option("IMG", *path, "Image; - is standard input")->required();
  return [path] { return run(*path); };
}

}  // namespace

const Command kVerifyCommand{"verify", "Check every byte of an image", define};

}  // namespace snapgdb::cli
