#include "core/image/image_reader.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <set>

#include "core/base/error.h"
#include "core/base/fd.h"
#include "core/base/strings.h"
#include "core/image/chunk.h"
#include "core/image/encryption.h"
#include "core/image/page_cache.h"
#include "core/image/record_parser.h"
#include "core/image/references.h"
#include "core/image/signature.h"

namespace snapgdb {
namespace {

constexpr char kCutOffHelp[] = "--salvage reads what is whole";
constexpr char kNoKeys[] = "it is encrypted, and the chunk that holds its key is damaged";

[[noreturn]] void bad(std::string why, std::string help = "") {
  throw Error("cannot read the image", std::move(why), std::move(help));
}

// A pipe cannot be read at random: its bytes go to an unnamed file first. What does not begin as an
// image does might never end (/dev/zero).
Fd spool(const Fd& source, const std::string& path) {
  const char* directory = ::getenv("TMPDIR");
  Fd file(::open(directory ? directory : "/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!file.valid()) throw_errno("cannot create a temporary file for {}", path);
  Bytes buffer(size_t{1} << 20);
  size_t n = read_upto(source.get(), std::span(buffer).first(ImageHeader::kSize), path);
  ImageHeader::decode(std::span(buffer).first(n));
  for (; n > 0; n = read_upto(source.get(), buffer, path))
    write_all(file.get(), std::span(buffer).first(n), "a temporary file");
  return file;
}

Fd open_for_reading(const std::string& path) {
  Fd fd(path == "-" ? ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
                    : ::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) throw_errno("cannot open {}", path);
  struct stat status;
  if (::fstat(fd.get(), &status) != 0) throw_errno("cannot open {}", path);
  if (S_ISDIR(status.st_mode)) throw SystemError("cannot read " + path, EISDIR);
  return S_ISREG(status.st_mode) ? std::move(fd) : spool(fd, path);
}

struct Chunk {
  ChunkHeader header;
  uint64_t offset = 0;
  PagePrefix pages;

  uint64_t payload_offset() const { return offset + ChunkHeader::kSize; }
  uint64_t end() const { return payload_offset() + header.stored_size; }
};

class ImageFile : public Image, public std::enable_shared_from_this<ImageFile> {
 public:
  ImageFile(Fd fd, std::string path, OpenOptions options);

  std::vector<uint64_t> snapshots() const override;
  std::shared_ptr<const Snapshot> snapshot(uint64_t sequence) const override;
  Verification verify(Progress* progress) const override;

  // Checked. The bytes are ours: whoever changes or cuts off the file later does not change them.
  Bytes payload(const Chunk& chunk) const;
  std::span<const Chunk> page_chunks() const { return page_chunks_; }

 private:
  Chunk chunk_at(uint64_t offset) const;
  Bytes stored(const Chunk& chunk) const;
  Bytes decoded(const Chunk& chunk, Bytes stored) const;
  void unlock(const std::string& key_file);
  void read_index();
  void scan();
  void sort_out();
  std::optional<PublicKey> check_chunks(Progress* progress) const;
  pb::SnapshotRecord record_of(uint64_t sequence, const Snapshot::Contents& contents) const;
  void add_damaged(uint64_t sequence, Snapshot::Contents& contents) const;
  static void stand_in_for_root(Snapshot::Contents& contents);

  Fd fd_;
  std::string path_;
  uint64_t size_ = 0;
  ImageHeader header_;
  std::shared_ptr<const ImageKey> key_;  // nullptr: not encrypted
  bool salvaging_ = false;
  std::vector<Chunk> chunks_;       // in file order, without index and tail
  std::vector<Chunk> page_chunks_;  // by ordinal
  PageSet pages_;
  std::vector<Chunk> damaged_;  // what salvaging passed over
};

// The pages of an image, decompressed chunk by chunk as they are asked for.
class ImagePages : public PageStore {
 public:
  explicit ImagePages(std::shared_ptr<const ImageFile> image) : image_(std::move(image)) {}

  void read_page(uint64_t ordinal, std::span<std::byte, kPageSize> out) const override {
    read_pages(ordinal, out);
  }

  void read_pages(uint64_t first, std::span<std::byte> out) const override {
    visit_pages(first, out.size() / kPageSize, [&](std::span<const std::byte> pages) {
      std::ranges::copy(pages, out.begin());
      out = out.subspan(pages.size());
    });
  }

  void visit_pages(uint64_t first, uint64_t count, const Visit& visit) const override {
    while (count > 0) {
      const uint64_t n = visit_chunk(first, count, visit);
      first += n, count -= n;
    }
  }

 private:
  // As much as the chunk has, from that page on; returns how many pages.
  uint64_t visit_chunk(uint64_t ordinal, uint64_t count, const Visit& visit) const {
    const auto chunks = image_->page_chunks();
    const auto after = std::ranges::upper_bound(
        chunks, ordinal, {}, [](const Chunk& chunk) { return chunk.pages.first_page; });
    const bool found = after != chunks.begin() &&
                       ordinal - std::prev(after)->pages.first_page < std::prev(after)->pages.pages;
    if (!found) bad(fmt::format("there is no page {}", ordinal));
    const Chunk& chunk = *std::prev(after);
    const auto payload = cache_.get(
        chunk.offset, [&] { return std::make_shared<const Bytes>(image_->payload(chunk)); });
    const uint64_t page = ordinal - chunk.pages.first_page;
    count = std::min(count, chunk.pages.pages - page);
    visit(std::span(*payload).subspan(PagePrefix::kSize + page * kPageSize, count * kPageSize));
    return count;
  }

  std::shared_ptr<const ImageFile> image_;
  mutable PageCache cache_;
};

ImageFile::ImageFile(Fd fd, std::string path, OpenOptions options)
    : fd_(std::move(fd)), path_(std::move(path)), salvaging_(options.salvage) {
  struct stat status;
  if (::fstat(fd_.get(), &status) != 0) throw_errno("cannot read {}", path_);
  size_ = static_cast<uint64_t>(status.st_size);
  std::array<std::byte, ImageHeader::kSize> bytes{};
  const size_t n = pread_upto(fd_.get(), bytes, 0, path_);
  header_ = ImageHeader::decode(std::span(bytes).first(n));
  unlock(options.key_file);
  if (salvaging_)
    scan();
  else
    read_index();
  sort_out();
}

Chunk ImageFile::chunk_at(uint64_t offset) const {
  std::array<std::byte, ChunkHeader::kSize> bytes{};
  if (offset > size_) bad("a chunk lies beyond its end");
  const size_t n = pread_upto(fd_.get(), bytes, offset, path_);
  Chunk chunk{ChunkHeader::decode(std::span(bytes).first(n), chunk_seed(header_.image_id, offset)),
              offset,
              {}};
  if (chunk.header.stored_size > size_ - chunk.payload_offset()) bad("it ends inside a chunk");
  return chunk;
}

void check_size(const Chunk& chunk) {
  const uint64_t limit = chunk.header.type == kPageChunk ? kMaxPageChunk : kMaxRecordChunk;
  if (chunk.header.stored_size > limit + limit / 64)
    bad(fmt::format("a {} chunk is too large", chunk_type_name(chunk.header.type)));
}

Bytes ImageFile::stored(const Chunk& chunk) const {
  check_size(chunk);
  Bytes stored(chunk.header.stored_size);
  if (pread_upto(fd_.get(), stored, chunk.payload_offset(), path_) != stored.size())
    bad("it was cut off after it had been opened");  // chunk_at() found it large enough
  check_payload(chunk.header, stored);
  return stored;
}

Bytes ImageFile::decoded(const Chunk& chunk, Bytes stored) const {
  const bool encrypted = chunk.header.filter == Filter::kEncrypted;
  if (encrypted && !key_) bad(kNoKeys, "nothing in it can be read");
  if (key_ && !encrypted && chunk.header.type != kTailChunk && chunk.header.type != kKeysChunk)
    bad(fmt::format("a {} chunk is not encrypted as the others are",
                    chunk_type_name(chunk.header.type)));
  if (encrypted) stored = key_->decrypt(header_, chunk.offset, chunk.header, stored);
  return unpack(chunk.header, std::move(stored));
}

PagePrefix prefix_of(std::span<const std::byte> payload) {
  if (payload.size() < PagePrefix::kSize) bad("a PAGE chunk is too short");
  const PagePrefix prefix{get<uint64_t>(payload, 0), get<uint64_t>(payload, 8)};
  if (prefix.pages > kMaxPageChunk / kPageSize || prefix.first_page > UINT64_MAX - prefix.pages ||
      payload.size() != PagePrefix::kSize + prefix.pages * kPageSize)
    bad("a PAGE chunk does not hold the pages it should");
  return prefix;
}

void check_pages(const Chunk& chunk, std::span<const std::byte> payload) {
  if (prefix_of(payload) != chunk.pages) bad("a PAGE chunk does not hold the pages it should");
}

Bytes ImageFile::payload(const Chunk& chunk) const {
  Bytes raw = decoded(chunk, stored(chunk));
  if (chunk.header.type == kPageChunk) check_pages(chunk, raw);
  return raw;
}

// An encrypted image says first for whom it is. A first chunk that is not whole is no matter here:
// whoever needs it will say so.
void ImageFile::unlock(const std::string& key_file) {
  Bytes keys;
  try {
    const Chunk chunk = chunk_at(ImageHeader::kSize);
    if (chunk.header.type != kKeysChunk) return;
    keys = payload(chunk);
  } catch (const Error&) {
    return;
  }
  if (key_file.empty()) bad("it is encrypted", "give --key FILE, or set SNAPGDB_KEY");
  key_ = ImageKey::unlock(keys, *SecretKey::load(key_file));
  if (!key_)
    bad(fmt::format("it is encrypted for another key than {}", key_file),
        "give the one that its maker encrypted it for");
}

void ImageFile::read_index() {
  if (size_ < ImageHeader::kSize + kTailSize) bad("it was cut off", kCutOffHelp);
  Chunk tail;
  try {
    tail = chunk_at(size_ - kTailSize);
  } catch (const Error&) {
    bad("it was cut off, or its end is damaged", kCutOffHelp);
  }
  const Bytes where = payload(tail);
  if (tail.header.type != kTailChunk || where.size() != sizeof(uint64_t))
    bad("its end is damaged", kCutOffHelp);
  const Chunk index_chunk = chunk_at(get<uint64_t>(where, 0));
  const auto index = RecordParser(size_).parse<pb::Index>(payload(index_chunk), kIndexChunk);
  for (const pb::ChunkEntry& entry : index.chunks()) {
    Chunk chunk = chunk_at(entry.offset());
    chunk.pages = {entry.first_page(), entry.pages()};
    if (chunk.header.type != entry.type() || chunk.header.snapshot != entry.snapshot())
      bad("its index is damaged", kCutOffHelp);
    chunks_.push_back(chunk);
  }
}

// Without an index: chunk after chunk, up to the first whose header is not whole; a chunk whose
// payload is damaged is passed over.
void ImageFile::scan() {
  static const std::set<uint32_t> kUnneeded{kIndexChunk, kSignatureChunk, kTailChunk, kKeysChunk};
  for (uint64_t offset = ImageHeader::kSize; offset < size_;) {
    Chunk chunk;
    try {
      chunk = chunk_at(offset);
    } catch (const Error&) {
      return;
    }
    offset = chunk.end();
    if (kUnneeded.contains(chunk.header.type)) continue;
    if (chunk.header.filter == Filter::kEncrypted && !key_)
      bad(kNoKeys, "nothing in it can be read");
    try {
      const Bytes raw = decoded(chunk, stored(chunk));
      if (chunk.header.type == kPageChunk) chunk.pages = prefix_of(raw);
      chunks_.push_back(chunk);
    } catch (const Error&) {
      damaged_.push_back(chunk);
    }
  }
}

void ImageFile::sort_out() {
  static const std::set<uint32_t> kKnown{kKeysChunk, kProcessChunk,  kPageChunk,
                                         kFileChunk, kSnapshotChunk, kAddressSpaceChunk};
  for (const Chunk& chunk : chunks_) {
    if (!kKnown.contains(chunk.header.type) && chunk.header.flags & kRequiredFlag)
      bad(fmt::format("it needs {} chunks, which this snapgdb does not know",
                      chunk_type_name(chunk.header.type)),
          "use a newer snapgdb");
    if (chunk.header.type == kPageChunk) page_chunks_.push_back(chunk);
  }
  std::ranges::sort(page_chunks_, {}, [](const Chunk& chunk) { return chunk.pages.first_page; });
  for (const Chunk& chunk : page_chunks_) pages_.add(chunk.pages);
}

std::vector<uint64_t> ImageFile::snapshots() const {
  std::set<uint64_t> sequences;
  for (const Chunk& chunk : chunks_)
    if (chunk.header.type == kSnapshotChunk || (salvaging_ && chunk.header.type == kProcessChunk))
      sequences.insert(chunk.header.snapshot);
  return {sequences.begin(), sequences.end()};
}

std::shared_ptr<const Snapshot> ImageFile::snapshot(uint64_t sequence) const {
  Snapshot::Contents contents;
  contents.pages = std::make_shared<ImagePages>(shared_from_this());
  RecordParser records(size_);
  for (const Chunk& chunk : chunks_) {
    const uint32_t type = chunk.header.type;
    const bool ours = chunk.header.snapshot == sequence;
    if (type == kFileChunk && chunk.header.snapshot <= sequence) {
      contents.files.push_back(records.parse<pb::FileRecord>(payload(chunk), type));
      if (const pb::FileRecord& file = contents.files.back(); salvaging_ && file.embedded())
        contents.salvaged_files[file.id()] =
            pages_.without_lost(Extents::from_record(file.content()));
    } else if (type == kProcessChunk && ours) {
      contents.processes.push_back(records.parse<pb::Process>(payload(chunk), type));
    } else if (type == kAddressSpaceChunk && ours) {
      auto space = records.parse<pb::AddressSpace>(payload(chunk), type);
      const Extents extents = Extents::from_record(space.extents());
      space.clear_extents();
      contents.address_spaces[space.id()].append_all(salvaging_ ? pages_.without_lost(extents)
                                                                : extents);
      contents.space_records.try_emplace(space.id(), std::move(space));
    } else if (type == kSnapshotChunk && ours) {
      if (contents.record.root_pid() != 0)
        bad(fmt::format("it has two records of snapshot {}", sequence),
            "it is damaged or was forged");
      contents.record = records.parse<pb::SnapshotRecord>(payload(chunk), type);
    }
  }
  if (contents.record.root_pid() == 0) {
    if (!salvaging_ || contents.processes.empty())
      bad(fmt::format("it has no snapshot {}", sequence));
    contents.record = record_of(sequence, contents);
    contents.lost = contents.record.missing_size();
  }
  if (salvaging_) {
    for (const pb::Process& process : contents.processes)
      if (process.address_space()) contents.address_spaces.try_emplace(process.address_space());
    add_damaged(sequence, contents);
    stand_in_for_root(contents);
  }
  return std::make_shared<const Snapshot>(std::move(contents));
}

// What was passed over and may be part of the snapshot: it, or something that it shares.
void ImageFile::add_damaged(uint64_t sequence, Snapshot::Contents& contents) const {
  for (const Chunk& chunk : damaged_) {
    if (chunk.header.snapshot > sequence) continue;
    contents.has_lost_processes |=
        chunk.header.type == kProcessChunk && chunk.header.snapshot == sequence;
    ++contents.lost;
    pb::Missing& missing = *contents.record.add_missing();
    missing.set_resource(
        fmt::format("the {} chunk at byte {}", chunk_type_name(chunk.header.type), chunk.offset));
    missing.set_reason("it is damaged; what is whole in the image was salvaged");
  }
}

// Where the root of the tree is lost: parents come before their children.
void ImageFile::stand_in_for_root(Snapshot::Contents& contents) {
  const auto is_root = [&](const pb::Process& process) {
    return process.pid() == contents.record.root_pid();
  };
  if (!contents.processes.empty() && std::ranges::none_of(contents.processes, is_root))
    contents.record.set_root_pid(contents.processes.front().pid());
}

// Stands in for the record that a cut-off image lacks.
pb::SnapshotRecord ImageFile::record_of(uint64_t sequence,
                                        const Snapshot::Contents& contents) const {
  const pb::Process& root = contents.processes.front();
  pb::SnapshotRecord record;
  record.set_sequence(sequence);
  record.mutable_host()->set_page_size(kPageSize);
  record.set_root_pid(root.pid());
  record.set_focus_pid(root.pid());
  record.set_focus_tid(root.pid());
  pb::Missing& missing = *record.add_missing();
  missing.set_pid(root.pid());
  missing.set_resource("the end of the image");
  missing.set_reason("the image was cut off; what is whole in it was salvaged");
  return record;
}

Verification ImageFile::verify(Progress* progress) const {
  count_expected(progress, size_);
  const Verification found{key_ != nullptr, check_chunks(progress)};
  if (pages_.overlap()) bad("two of its PAGE chunks hold pages of the same number");
  std::set<uint32_t> hashed;  // files that snapshots share are read once
  for (const uint64_t sequence : snapshots()) {
    try {
      const auto read = snapshot(sequence);
      check_references(*read, pages_);
      check_hashes(*read, hashed);
    } catch (const Error& error) {
      throw error.within(fmt::format("snapshot {}", sequence));
    }
  }
  return found;
}

// From front to back; returns who signed it all.
std::optional<PublicKey> ImageFile::check_chunks(Progress* progress) const {
  static const std::set<uint32_t> kUnlisted{kIndexChunk, kSignatureChunk, kTailChunk};
  ImageHash hash(header_);
  std::optional<PublicKey> signer;
  uint64_t signed_end = 0;
  auto listed = chunks_.begin();
  for (uint64_t offset = ImageHeader::kSize; offset < size_;) {
    Chunk chunk = chunk_at(offset);
    const auto in = fmt::format("chunk {} at byte {}", chunk_type_name(chunk.header.type), offset);
    try {
      Bytes bytes = stored(chunk);
      const auto digest =
          ImageHash::of_chunk(chunk.header.encode(chunk_seed(header_.image_id, offset)), bytes);
      bytes = decoded(chunk, std::move(bytes));
      if (chunk.header.type == kPageChunk) chunk.pages = prefix_of(bytes);
      if (chunk.header.type == kSignatureChunk) {
        signer = hash.check(bytes);
        signed_end = chunk.end();
      }
      if (!kUnlisted.contains(chunk.header.type)) {
        if (listed == chunks_.end() || listed->offset != offset || listed->pages != chunk.pages)
          bad("it is not in the index as it should be");
        ++listed;
      }
      hash.add(digest);
    } catch (const Error& error) {
      throw error.within(in);
    }
    count_done(progress, chunk.end() - offset);
    offset = chunk.end();
  }
  if (listed != chunks_.end()) bad("its index lists a chunk twice, or one that is not there");
  if (signer && signed_end + kTailSize != size_)
    bad("it is signed only up to its middle", "something was added without a signature");
  return signer;
}

}  // namespace

std::string default_key_file() {
  const char* path = ::getenv("SNAPGDB_KEY");
  return path ? path : "";
}

std::shared_ptr<const Image> Image::open(const std::string& path, OpenOptions options) {
  try {
    return std::make_shared<ImageFile>(open_for_reading(path), path, options);
  } catch (const SystemError&) {
    throw;
  } catch (const Error& error) {
    throw error.within(path);
  }
}

SnapshotName parse_snapshot_name(std::string_view text) {
  const size_t at = text.rfind('@');
  const std::string_view number = at == std::string_view::npos ? "" : text.substr(at + 1);
  const bool is_number =
      number.size() > number.starts_with('-') &&
      number.find_first_not_of("0123456789", number.starts_with('-')) == std::string_view::npos;
  if (!is_number || ::access(std::string(text).c_str(), F_OK) == 0) return {std::string(text), -1};
  // No image has as many as do not fit.
  return {std::string(text.substr(0, at)), parse_number<int64_t>(number).value_or(0)};
}

OpenedSnapshot open_with_image(std::string_view name, OpenOptions options) {
  const auto [path, k] = parse_snapshot_name(name);
  const auto image = Image::open(path, options);
  const std::vector<uint64_t> sequences = image->snapshots();
  const auto count = static_cast<int64_t>(sequences.size());
  const int64_t index = k < 0 ? count + k : k - 1;
  if (index < 0 || index >= count)
    throw Error(fmt::format("cannot open {}", name),
                count == 0 ? std::string("it has no snapshot that is whole")
                           : fmt::format("it has {} snapshot{}, the first is 1", count,
                                         count == 1 ? "" : "s"));
  try {
    return {image, image->snapshot(sequences[static_cast<size_t>(index)])};
  } catch (const Error& error) {
    throw error.within(path);
  }
}

std::shared_ptr<const Snapshot> open_snapshot(std::string_view name, OpenOptions options) {
  return open_with_image(name, std::move(options)).snapshot;
}

}  // namespace snapgdb
