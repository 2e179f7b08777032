#include "core/image/keys.h"

#include <sys/stat.h>

#include <catch2/catch.hpp>

#include "tests/unit/image/sample_image.h"

using namespace snapgdb;
using namespace snapgdb::test;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

TEST_CASE("a public key survives being written down", "[keys]") {
  const PublicKey key = SecretKey::generate()->public_key();
  CHECK_THAT(key.text(), StartsWith("snapgdb1:"));
  CHECK(key.text().find('\n') == std::string::npos);
  CHECK(PublicKey::parse(key.text()) == key);
  CHECK(PublicKey::load(key.text()) == key);
  CHECK(PublicKey::decode(key.encode()) == key);
}

TEST_CASE("no two keys are the same", "[keys]") {
  CHECK(SecretKey::generate()->public_key() != SecretKey::generate()->public_key());
}

TEST_CASE("a slip in copying a key is noticed, wherever it is", "[keys]") {
  const std::string text = SecretKey::generate()->public_key().text();
  for (size_t i = 0; i < text.size(); ++i) {
    CAPTURE(i);
    std::string wrong = text;
    wrong[i] = wrong[i] == 'A' ? 'B' : 'A';
    CHECK_THROWS_AS(PublicKey::parse(wrong), Error);
    CHECK_THROWS_AS(PublicKey::parse(text.substr(0, i)), Error);
  }
  CHECK_THROWS_WITH(PublicKey::parse(text + "A"), Contains("not copied whole"));
}

TEST_CASE("a secret key is kept in a private file, and never over another", "[keys]") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("key");
  const auto key = SecretKey::generate();
  key->save(path);
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
  CHECK(SecretKey::load(path)->public_key() == key->public_key());
  CHECK_THROWS_WITH(SecretKey::generate()->save(path), Contains("File exists"));
  CHECK(SecretKey::load(path)->public_key() == key->public_key());
}

TEST_CASE("the wrong half of a key is recognised as that", "[keys]") {
  const TemporaryDirectory directory;
  const auto key = SecretKey::generate();
  key->save(directory.file("key"));
  write_file(directory.file("key.pub"), key->public_key().text() + "\n");
  write_file(directory.file("text"), "hello\n");
  CHECK(PublicKey::load(directory.file("key.pub")) == key->public_key());
  CHECK_THROWS_WITH(PublicKey::load(directory.file("key")), Contains("it is a secret key"));
  CHECK_THROWS_WITH(SecretKey::load(directory.file("key.pub")), Contains("it is a public key"));
  CHECK_THROWS_WITH(SecretKey::load(directory.file("text")), Contains("no secret key in it"));
  CHECK_THROWS_WITH(PublicKey::load(directory.file("text")), Contains("it is no public key"));
  CHECK_THROWS_WITH(SecretKey::load(directory.file("nothing")), Contains("No such file"));
}

TEST_CASE("what is sealed for one is closed to others", "[keys]") {
  const auto owner = SecretKey::generate(), other = SecretKey::generate();
  const std::string secret = "secret";
  std::vector<std::byte> sealed(secret.size() + kSealOverhead), out(secret.size());
  seal(owner->public_key(), std::as_bytes(std::span(secret)), sealed);
  CHECK(owner->unseal(sealed, out));
  CHECK(std::memcmp(out.data(), secret.data(), secret.size()) == 0);
  CHECK_FALSE(other->unseal(sealed, out));
  sealed[40] ^= std::byte{1};
  CHECK_FALSE(owner->unseal(sealed, out));
}
