#include <optional>

#include "cli/command.h"
#include "cli/image_options.h"
#include "cli/progress_line.h"
#include "core/base/error.h"
#include "core/inspect/words.h"

namespace snapgdb::cli {
namespace {

struct Arguments {
  std::string image;
  std::optional<PublicKey> signer = {};
  OpenOptions open = {};
};

// Whoever may sign is known by the signing half of the key.
void demand_signer(const Verification& found, const PublicKey& wanted) {
  const std::string tried = "cannot accept the signature";
  if (!found.signer) throw Error(tried, "it is not signed", "capture --sign signs an image");
  if (found.signer->signing != wanted.signing)
    throw Error(tried, fmt::format("it is signed by {}", found.signer->text()),
                fmt::format("wanted is {}", wanted.text()));
}

int run(const Arguments& arguments) {
  if (const auto name = parse_snapshot_name(arguments.image); name.path != arguments.image)
    throw Error(fmt::format("cannot verify {}", arguments.image),
                "all snapshots of an image are verified together",
                fmt::format("snapgdb verify {}", name.path), ExitStatus::kUsage);
  const auto image = Image::open(arguments.image, arguments.open);
  Verification found;
  try {
    ProgressLine line(arguments.image);
    found = image->verify(line.progress());
    if (arguments.signer) demand_signer(found, *arguments.signer);
  } catch (const Error& error) {
    throw error.within(arguments.image);
  }
  fmt::print("{}: whole, {}{}, {}\n", arguments.image,
             counted(image->snapshots().size(), "snapshot", "snapshots"),
             found.encrypted ? ", encrypted" : "",
             found.signer ? "signed by " + found.signer->text() : "not signed");
  return 0;
}

Action define(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  app.add_option("IMG", arguments->image, "Image, with all its snapshots; - is standard input")
      ->required();
  add_key_option(app, arguments->open);
  app.add_option_function<std::string>(
         "--signed-by",
         [arguments](const std::string& key) { arguments->signer = PublicKey::load(key); },
         "Demand a signature by the owner of this public key")
      ->type_name("PUBKEY|FILE.pub");
  return [arguments] { return run(*arguments); };
}

}  // namespace

const Command kVerifyCommand{
    "verify", "Check every byte of an image, every reference in it, and its signature", define};

}  // namespace snapgdb::cli
