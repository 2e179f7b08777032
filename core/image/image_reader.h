#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/progress.h"
#include "core/image/keys.h"
#include "core/image/snapshot.h"

namespace snapgdb {

// $SNAPGDB_KEY, or "".
std::string default_key_file();

struct OpenOptions {
  // Read what is whole in an image that was cut off or has a damaged index.
  bool salvage = false;
  // Holds the secret key that opens an encrypted image; not touched for any other image.
  std::string key_file = default_key_file();
};

// What verify() found besides the image being whole.
struct Verification {
  bool encrypted = false;
  std::optional<PublicKey> signer = {};
};

// An image file, open for reading at random. Immutable and safe to share between threads.
// A file that cannot be sought in (a pipe) is spooled to an unnamed temporary file first.
class Image {
 public:
  // Throws Error with one line that says what is wrong: not an image, a newer version, cut off,
  // damaged, encrypted. "-" is standard input.
  static std::shared_ptr<const Image> open(const std::string& path, OpenOptions options = {});
  virtual ~Image() = default;

  // Sequences of the snapshots, ascending.
  virtual std::vector<uint64_t> snapshots() const = 0;
  // Reads the records of one; its pages stay in the file until they are asked for.
  virtual std::shared_ptr<const Snapshot> snapshot(uint64_t sequence) const = 0;
  // Reads everything once and checks every checksum, every reference and the signature, if there is
  // one. Throws Error naming the first that is wrong. `progress`, or nullptr: counts the file.
  virtual Verification verify(Progress* progress = nullptr) const = 0;
};

// "IMG" or "IMG@K": K counts from 1, or from the end when negative; without it, the last one.
struct SnapshotName {
  std::string path;
  int64_t k = -1;
};
SnapshotName parse_snapshot_name(std::string_view text);

std::shared_ptr<const Snapshot> open_snapshot(std::string_view name, OpenOptions options = {});

// The same with its image, for those who want to go from one snapshot to another.
struct OpenedSnapshot {
  std::shared_ptr<const Image> image;
  std::shared_ptr<const Snapshot> snapshot;
};
OpenedSnapshot open_with_image(std::string_view name, OpenOptions options = {});

}  // namespace snapgdb
