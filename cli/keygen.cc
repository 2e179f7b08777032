#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "cli/command.h"
#include "core/base/error.h"
#include "core/base/fd.h"
#include "core/base/say.h"
#include "core/image/keys.h"

namespace snapgdb::cli {
namespace {

void save_public(const PublicKey& key, const std::string& path) {
  const Fd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!file.valid()) throw_errno("cannot create {}", path);
  const std::string line = key.text() + "\n";
  write_all(file.get(), std::as_bytes(std::span(line)), path);
}

int keygen(const std::string& path) {
  const auto key = SecretKey::generate();
  key->save(path);
  try {
    save_public(key->public_key(), path + ".pub");
  } catch (const Error&) {
    ::unlink(path.c_str());  // a secret that nobody has the other half of
    throw;
  }
  fmt::print("{}\n", key->public_key().text());
  say("{} is secret: it opens what is encrypted for it, and signs. {}.pub is for everybody\n", path,
      path);
  return 0;
}

Action define(CLI::App& app) {
  auto path = std::make_shared<std::string>("snapgdb.key");
  app.add_option("-o,--output", *path,
                 "File for the secret key; FILE.pub is the public one [snapgdb.key]")
      ->type_name("FILE");
  return [path] { return keygen(*path); };
}

}  // namespace

const Command kKeygenCommand{"keygen", "Make a key to encrypt images for, and to sign them with",
                             define};

}  // namespace snapgdb::cli
