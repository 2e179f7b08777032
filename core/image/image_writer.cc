#include "core/image/image_writer.h"

#include <algorithm>
#include <random>

#include "core/base/error.h"
#include "core/image/compressor.h"

namespace snapgdb {
namespace {

// Chunks handed in and not yet written, for each worker: enough to keep all of them busy.
constexpr size_t kJobsPerWorker = 4;

uint64_t random_id() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

// Runs of an address space in one record: some 30 MiB at most.
constexpr size_t kRunsPerRecord = size_t{1} << 20;

// How a reader finds its way in: these are as they are, for everybody to read.
bool is_plain(uint32_t type) {
  return type == kKeysChunk || type == kTailChunk;
}

bool is_listed(uint32_t type) {
  return type != kIndexChunk && type != kSignatureChunk && type != kTailChunk;
}

}  // namespace

ImageWriter::ImageWriter(OutputFile out, WriteOptions options)
    : out_(std::move(out)),
      options_(std::move(options)),
      header_{random_id()},
      key_(options_.recipients.empty() ? nullptr : ImageKey::random()),
      hash_(header_) {
  if (options_.workers == 0) options_.workers = std::max(1u, std::thread::hardware_concurrency());
  const auto bytes = header_.encode();
  write_all(out_.fd(), bytes, out_.path());
  offset_ = next_offset_ = bytes.size();
  for (unsigned i = 0; i < options_.workers; ++i)
    threads_.emplace_back([this](std::stop_token stop) { work_on_jobs(stop); });
  if (key_) submit(kKeysChunk, key_->lock(options_.recipients));
}

ImageWriter::~ImageWriter() = default;

uint64_t ImageWriter::begin_snapshot() {
  return ++sequence_;
}

uint64_t ImageWriter::take_page_ordinals(uint64_t count) {
  return std::exchange(next_page_, next_page_ + count);
}

void ImageWriter::add(uint32_t type, const google::protobuf::Message& record) {
  const size_t size = record.ByteSizeLong();
  if (size > kMaxRecordChunk)
    throw Error(fmt::format("cannot write {}", out_.path()),
                fmt::format("a {} record has {} bytes", chunk_type_name(type), size));
  Bytes payload(size);
  record.SerializeWithCachedSizesToArray(reinterpret_cast<uint8_t*>(payload.data()));
  submit(type, std::move(payload));
}

void ImageWriter::add_pages(PagePrefix prefix, Bytes payload) {
  put(payload, 0, prefix.first_page);
  put(payload, 8, prefix.pages);
  submit(kPageChunk, std::move(payload), prefix);
}

Bytes ImageWriter::spare_buffer(size_t size) {
  Bytes buffer;
  {
    const std::lock_guard lock(mutex_);
    if (!spare_.empty()) {
      buffer = std::move(spare_.back());
      spare_.pop_back();
    }
  }
  buffer.resize(size);
  return buffer;
}

void ImageWriter::keep_buffer(Bytes buffer) {
  const std::lock_guard lock(mutex_);
  if (spare_.size() < jobs_at_most()) spare_.push_back(std::move(buffer));
}

void ImageWriter::add_address_space(pb::AddressSpace record, const Extents& extents) {
  size_t first = 0;
  do {
    *record.mutable_extents() = extents.to_record(first, kRunsPerRecord);
    add(kAddressSpaceChunk, record);
    first += kRunsPerRecord;
  } while (first < extents.all().size());
}

size_t ImageWriter::jobs_at_most() const {
  return options_.workers * kJobsPerWorker;
}

void ImageWriter::submit(uint32_t type, Bytes payload, PagePrefix pages) {
  auto job = std::make_unique<Job>();
  job->header.type = type;
  job->header.flags = type == kSignatureChunk ? 0 : kRequiredFlag;
  job->header.snapshot = sequence_;
  job->payload = std::move(payload);
  job->pages = pages;
  std::unique_lock lock(mutex_);
  room_.wait(lock, [&] { return failure_ || jobs_.size() < jobs_at_most(); });
  rethrow_failure();
  jobs_.push_back(std::move(job));
  work_.notify_one();
}

// What can be done now, the nearest to the front first; nullptr: nothing.
ImageWriter::Job* ImageWriter::next_step() const {
  if (!jobs_.empty() && jobs_.front()->stage == Stage::kReady) return jobs_.front().get();
  const auto found = std::ranges::find_if(jobs_, [](const auto& job) {
    return job->stage == Stage::kNew || job->stage == Stage::kPlaced;
  });
  return found == jobs_.end() ? nullptr : found->get();
}

// One worker mostly takes all the steps of a job, while the job is in its processor's cache.
void ImageWriter::work_on_jobs(std::stop_token stop) {
  Compressor compressor(options_.level);
  std::unique_lock lock(mutex_);
  while (work_.wait(lock, stop, [&] { return next_step() != nullptr; })) {
    Job& job = *next_step();
    job.stage = Stage{static_cast<int>(job.stage) + 1};
    if (next_step()) work_.notify_one();
    const bool failed = failure_ != nullptr;  // then nothing may come behind the gap
    lock.unlock();
    try {
      if (!failed) take_step(job, compressor);
    } catch (...) {
      fail(std::current_exception());
    }
    lock.lock();
    job.stage = Stage{static_cast<int>(job.stage) + 1};
    place_jobs();
    remove_written();
  }
}

void ImageWriter::take_step(Job& job, Compressor& compressor) {
  if (job.stage == Stage::kPacking) return pack(job, compressor);
  if (job.stage == Stage::kSealing) return seal(job);
  write_chunk(job);
  if (job.header.type == kPageChunk) keep_buffer(std::move(job.payload));
}

void ImageWriter::place_jobs() {
  for (const auto& job : jobs_) {
    if (job->stage < Stage::kPacked) return;
    if (job->stage > Stage::kPacked) continue;
    job->stage = Stage::kPlaced;
    job->offset = next_offset_;
    next_offset_ += ChunkHeader::kSize + job->header.stored_size;
  }
}

void ImageWriter::remove_written() {
  if (jobs_.front()->stage != Stage::kWritten) return;
  jobs_.pop_front();
  room_.notify_all();
}

void ImageWriter::pack(Job& job, Compressor& compressor) {
  ChunkHeader& header = job.header;
  header.raw_size = job.payload.size();
  if (options_.level != 0 && !is_plain(header.type)) {
    Bytes packed =
        header.type == kPageChunk ? spare_buffer(job.payload.size()) : Bytes(job.payload.size());
    if (const auto size = compressor.compress(job.payload, packed)) {
      packed.resize(*size);
      header.codec = Codec::kZstd;
      packed.swap(job.payload);
    }
    if (header.type == kPageChunk) keep_buffer(std::move(packed));
  }
  header.stored_size = job.payload.size();
  if (!key_ || is_plain(header.type)) return;
  header.filter = Filter::kEncrypted;
  header.stored_size += ImageKey::kOverhead;
}

void ImageWriter::seal(Job& job) const {
  ChunkHeader& header = job.header;
  if (header.filter == Filter::kEncrypted)
    job.payload = key_->encrypt(header_, job.offset, header, job.payload);
  header.payload_checksum = checksum(job.payload);
  if (!options_.signer) return;
  const auto bytes = header.encode(chunk_seed(header_.image_id, job.offset));
  job.digest = ImageHash::of_chunk(bytes, job.payload);
}

void ImageWriter::write_chunk(const Job& job) {
  if (is_listed(job.header.type)) {
    pb::ChunkEntry& entry = *index_.add_chunks();
    entry.set_type(job.header.type);
    entry.set_offset(job.offset);
    entry.set_snapshot(job.header.snapshot);
    entry.set_first_page(job.pages.first_page);
    entry.set_pages(static_cast<uint32_t>(job.pages.pages));
  }
  write_all(out_.fd(), job.header.encode(chunk_seed(header_.image_id, job.offset)), out_.path());
  write_all(out_.fd(), job.payload, out_.path());
  hash_.add(job.digest);
  offset_ = job.offset + ChunkHeader::kSize + job.payload.size();
}

void ImageWriter::commit() {
  drain();
  Bytes tail(sizeof offset_);
  put(tail, 0, offset_);
  add(kIndexChunk, index_);
  drain();
  if (options_.signer) submit(kSignatureChunk, hash_.sign(*options_.signer));
  submit(kTailChunk, std::move(tail));
  drain();
  out_.commit();
}

void ImageWriter::drain() {
  std::unique_lock lock(mutex_);
  room_.wait(lock, [&] { return failure_ || jobs_.empty(); });
  rethrow_failure();
}

void ImageWriter::fail(std::exception_ptr error) {
  const std::lock_guard lock(mutex_);
  if (!failure_) failure_ = std::move(error);
  room_.notify_all();
}

void ImageWriter::rethrow_failure() const {
  if (failure_) std::rethrow_exception(failure_);
}

}  // namespace snapgdb
