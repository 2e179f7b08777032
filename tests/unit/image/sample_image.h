#pragma once

#include <stdlib.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <string>

#include "core/base/error.h"
#include "core/image/image_reader.h"
#include "core/image/image_writer.h"
#include "core/image/page_writer.h"

namespace snapgdb::test {

// A directory of its own, gone at the end.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = "/tmp/snapgdb-test.XXXXXX";
    path_ = ::mkdtemp(name.data());
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  std::string file(const std::string& name) const { return path_ / name; }
  size_t entries() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(path_), {}));
  }

 private:
  std::filesystem::path path_;
};

inline std::string page_of(char filling) {
  return std::string(kPageSize, filling);
}

inline void add_text(PageWriter& pages, Extents& extents, uint64_t address,
                     const std::string& whole_pages) {
  pages.add(extents, address, std::as_bytes(std::span(whole_pages)));
}

// Writes one snapshot of one process, whose page at 0x1000 is filled with `filling`, followed by a
// zero page, a page equal to the first, and a page of the embedded file /bin/x.
inline void write_sample(ImageWriter& image, PageWriter& pages, char filling) {
  const uint64_t sequence = image.begin_snapshot();
  pb::Process process;
  process.set_pid(10);
  process.set_parent(1);
  process.set_name("sample");
  process.set_address_space(1);
  process.add_threads()->set_tid(10);
  pb::Vma& vma = *process.add_mappings();
  vma.set_start(0x1000);
  vma.set_end(0x5000);
  image.add(kProcessChunk, process);

  Extents extents;
  add_text(pages, extents, 0x1000, page_of(filling) + page_of(0) + page_of(filling));
  extents.append({0x4000, kPageSize, pb::SOURCE_FILE, 0, 1});
  pages.flush();
  pb::AddressSpace space;
  space.set_id(1);
  space.set_method("twin");
  space.set_why_not_better("it writes all the time");
  *space.mutable_extents() = extents.to_record();
  image.add(kAddressSpaceChunk, space);

  if (sequence == 1) {
    Extents content;
    add_text(pages, content, 0, "file" + std::string(kPageSize - 4, '\0'));
    pages.flush();
    pb::FileRecord file;
    file.set_id(1);
    file.set_path("/bin/x");
    file.set_size(4);
    file.set_embedded(true);
    *file.mutable_content() = content.to_record();
    image.add(kFileChunk, file);
  }
  pb::SnapshotRecord record;
  record.set_sequence(sequence);
  record.set_root_pid(10);
  record.set_reason(std::string("filled with ") + filling);
  image.add(kSnapshotChunk, record);
}

inline std::string sample_image(const TemporaryDirectory& directory, WriteOptions options,
                                const std::string& fillings) {
  const std::string path = directory.file("sample.snapgdb");
  options.workers = 2;
  ImageWriter image(OutputFile::create(path), options);
  PageWriter pages(image);
  for (const char filling : fillings) write_sample(image, pages, filling);
  image.commit();
  return path;
}

inline std::string sample_image(const TemporaryDirectory& directory, int level = 1,
                                const std::string& fillings = "a") {
  return sample_image(directory, WriteOptions{.level = level}, fillings);
}

inline std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void write_file(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

inline std::string memory(const Snapshot& snapshot, uint64_t address, size_t size) {
  std::string bytes(size, '?');
  bytes.resize(
      snapshot.read_memory(snapshot.root(), address, std::as_writable_bytes(std::span(bytes))));
  return bytes;
}

// What opening and then verifying the image complains of; "" if it does not.
inline std::string complaint(const std::string& path, const OpenOptions& options = {}) {
  try {
    Image::open(path, options)->verify();
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace snapgdb::test
