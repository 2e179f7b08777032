#include "cli/image_options.h"

namespace snapgdb::cli {

void add_key_option(CLI::App& app, OpenOptions& open) {
  app.add_option("--key", open.key_file, "Secret key that opens an encrypted image [$SNAPGDB_KEY]")
      ->type_name("FILE");
}

void add_open_options(CLI::App& app, OpenOptions& open) {
  add_key_option(app, open);
  app.add_flag("--salvage", open.salvage, "Read what is whole in a damaged or cut-off image");
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

}  // namespace snapgdb::cli
