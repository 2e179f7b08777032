#include "cli/image_options.h"

#include "core/base/error.h"
#include "core/base/say.h"
#include "core/base/strings.h"

namespace snapgdb::cli {

void add_key_option(CLI::App& app, OpenOptions& open) {
  app.add_option("--key", open.key_file, "Secret key that opens an encrypted image [$SNAPGDB_KEY]")
      ->type_name("FILE");
}

void add_open_options(CLI::App& app, OpenOptions& open) {
  add_key_option(app, open);
  app.add_flag("--salvage", open.salvage, "Read what is whole in a damaged or cut-off image");
}

std::string why_not_named(const std::string& name) {
  return name.empty() ? "is empty" : "";
}

int report_lost(const Snapshot& snapshot, const std::string& image) {
  for (const pb::Missing* lost : snapshot.lost())
    say("snapgdb: {} has lost {}: {}\n", printable(image), printable(lost->resource()),
        printable(lost->reason()));
  return static_cast<int>(snapshot.lost().empty() ? ExitStatus::kDone : ExitStatus::kIncomplete);
}

void add_write_options(CLI::App& app, WriteOptions& write) {
  app.add_option("--level", write.level, "Compression level of zstd; 0: none [1]")
      ->check(CLI::Range(0, 19));
  app.add_option_function<std::string>(
         "--recipient",
         [&write](const std::string& key) { write.recipients.push_back(PublicKey::load(key)); },
         "Encrypt for the owner of this public key; may be given several times")
      ->type_name("PUBKEY|FILE.pub")
      ->trigger_on_parse();
  app.add_option_function<std::string>(
         "--sign", [&write](const std::string& path) { write.signer = SecretKey::load(path); },
         "Sign with this secret key")
      ->type_name("FILE");
}

void add_memory_options(CLI::App& app, MemoryOptions& memory) {
  app.add_flag("--all-memory", memory.include_dontdump,
               "Also memory that the program keeps out of dumps (MADV_DONTDUMP)");
}

}  // namespace snapgdb::cli
