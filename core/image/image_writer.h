#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/image/chunk.h"
#include "core/image/encryption.h"
#include "core/image/extents.h"
#include "core/image/keys.h"
#include "core/image/output_file.h"
#include "core/image/signature.h"
#include "core/image/snapshot.pb.h"

namespace snapgdb {

class Compressor;

struct WriteOptions {
  int level = 1;                           // of zstd; 0: not compressed
  unsigned workers = 0;                    // compressing threads; 0: one a processor
  std::vector<PublicKey> recipients = {};  // who can read it; nobody: everybody, not encrypted
  std::shared_ptr<const SecretKey> signer = {};  // nullptr: not signed
};

// Writes an image strictly front to back. Chunks come out in the order in which they were handed
// in; several workers compress, encrypt and write them meanwhile. What is under way is bounded,
// so memory does not grow with the image. Errors of the workers are thrown by the next call.
class ImageWriter {
 public:
  explicit ImageWriter(OutputFile out, WriteOptions options = {});
  ~ImageWriter();

  // Every chunk from here on belongs to a new snapshot; returns its sequence.
  uint64_t begin_snapshot();
  void add(uint32_t type, const google::protobuf::Message& record);
  // In as many records as it needs, so that none grows beyond what a reader accepts.
  void add_address_space(pb::AddressSpace record, const Extents& extents);
  // `payload` begins with PagePrefix::kSize bytes left free for `prefix`. Blocks while too much is
  // under way.
  void add_pages(PagePrefix prefix, Bytes payload);
  // A buffer of that size and any content, used again where possible: fresh memory costs more than
  // filling it.
  Bytes spare_buffer(size_t size);
  // Waits until everything handed in so far is written.
  void drain();
  // Ordinals for `count` pages to come.
  uint64_t take_page_ordinals(uint64_t count);
  // Writes index, signature and tail, and makes the image durable under its name. More snapshots
  // may follow: they are appended, with a new index behind them.
  void commit();

  uint64_t bytes_written() const { return offset_; }
  const std::string& path() const { return out_.path(); }

 private:
  // What becomes of a chunk. Encrypting needs to know where it will stand, which is known once all
  // before it are packed; so neither step waits for the chunks before it to be written.
  enum class Stage { kNew, kPacking, kPacked, kPlaced, kSealing, kReady, kWriting, kWritten };
  struct Job {
    ChunkHeader header;
    Bytes payload;
    PagePrefix pages;  // of a PAGE chunk
    Stage stage = Stage::kNew;
    uint64_t offset = 0;            // from kPlaced on
    ImageHash::Digest digest = {};  // kReady, of an image that will be signed
  };

  void submit(uint32_t type, Bytes payload, PagePrefix pages = {});
  size_t jobs_at_most() const;
  void work_on_jobs(std::stop_token stop);
  Job* next_step() const;
  void take_step(Job& job, Compressor& compressor);
  void place_jobs();
  void remove_written();
  void pack(Job& job, Compressor& compressor);
  void seal(Job& job) const;
  void write_chunk(const Job& job);
  void fail(std::exception_ptr error);
  void rethrow_failure() const;
  void keep_buffer(Bytes buffer);

  OutputFile out_;
  WriteOptions options_;
  ImageHeader header_;
  std::shared_ptr<const ImageKey> key_;  // nullptr: not encrypted
  uint64_t sequence_ = 0;
  uint64_t next_page_ = 0;

  std::mutex mutex_;
  std::condition_variable_any work_;       // there may be a step to take
  std::condition_variable room_;           // a job was written, or something failed
  std::deque<std::unique_ptr<Job>> jobs_;  // in file order; the front one is written next
  uint64_t next_offset_ = 0;               // of the first one that is not placed
  std::exception_ptr failure_;
  std::vector<Bytes> spare_;

  // Owned by whoever writes a job, and by commit() when no job is left.
  uint64_t offset_ = 0;
  pb::Index index_;
  ImageHash hash_;

  std::vector<std::jthread> threads_;  // last: they stop before the rest goes
};

}  // namespace snapgdb
