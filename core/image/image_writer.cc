#include "core/image/image_writer.h"

#include <zstd.h>

#include <algorithm>
#include <random>

#include "core/base/error.h"

namespace snapgdb {
namespace {

// Chunks handed in and not yet written, for each worker: enough to keep all of them busy.
constexpr size_t kJobsPerWorker = 4;

uint64_t random_id() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

}  // namespace

ImageWriter::ImageWriter(OutputFile out, WriteOptions options)
    : out_(std::move(out)), options_(options), header_{random_id()} {
  if (options_.workers == 0) options_.workers = std::max(1u, std::thread::hardware_concurrency());
  const auto bytes = header_.encode();
  write_all(out_.fd(), bytes, out_.path());
  offset_ = bytes.size();
  for (unsigned i = 0; i < options_.workers; ++i)
    threads_.emplace_back([this](std::stop_token stop) { compress_jobs(stop); });
  threads_.emplace_back([this](std::stop_token stop) { write_jobs(stop); });
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
  if (spare_.size() < kJobsPerWorker) spare_.push_back(std::move(buffer));
}

void ImageWriter::submit(uint32_t type, Bytes payload, PagePrefix pages) {
  auto job = std::make_unique<Job>();
  job->header.type = type;
  job->header.flags = kRequiredFlag;
  job->header.snapshot = sequence_;
  job->payload = std::move(payload);
  job->pages = pages;
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return failure_ || jobs_.size() < options_.workers * kJobsPerWorker; });
  rethrow_failure();
  jobs_.push_back(std::move(job));
  changed_.notify_all();
}

void ImageWriter::compress_jobs(std::stop_token stop) {
  std::unique_lock lock(mutex_);
  const auto waiting = [&] {
    return std::ranges::find_if(jobs_, [](const auto& job) { return !job->taken; });
  };
  while (changed_.wait(lock, stop, [&] { return waiting() != jobs_.end(); })) {
    Job& job = **waiting();
    job.taken = true;
    lock.unlock();
    try {
      encode(job);
    } catch (...) {
      fail(std::current_exception());
    }
    lock.lock();
    job.ready = true;
    changed_.notify_all();
  }
}

void ImageWriter::write_jobs(std::stop_token stop) {
  std::unique_lock lock(mutex_);
  while (changed_.wait(lock, stop, [&] { return !jobs_.empty() && jobs_.front()->ready; })) {
    const Job& job = *jobs_.front();
    if (!failure_) {
      lock.unlock();
      try {
        write_chunk(job);
      } catch (...) {
        fail(std::current_exception());
      }
      lock.lock();
    }
    Bytes buffer = std::move(jobs_.front()->payload);
    const bool pages = jobs_.front()->header.type == kPageChunk;
    jobs_.pop_front();
    if (pages && spare_.size() < kJobsPerWorker) spare_.push_back(std::move(buffer));
    changed_.notify_all();
  }
}

void ImageWriter::encode(Job& job) {
  job.header.raw_size = job.payload.size();
  if (options_.level != 0) {
    Bytes packed(ZSTD_compressBound(job.payload.size()));
    const size_t n = ZSTD_compress(packed.data(), packed.size(), job.payload.data(),
                                   job.payload.size(), options_.level);
    if (ZSTD_isError(n)) throw Error("cannot compress a chunk", ZSTD_getErrorName(n));
    if (n < job.payload.size()) {
      packed.resize(n);
      keep_buffer(std::exchange(job.payload, std::move(packed)));
      job.header.codec = Codec::kZstd;
    }
  }
  job.header.stored_size = job.payload.size();
  job.header.payload_checksum = checksum(job.payload);
}

void ImageWriter::write_chunk(const Job& job) {
  pb::ChunkEntry& entry = *index_.add_chunks();
  entry.set_type(job.header.type);
  entry.set_offset(offset_);
  entry.set_snapshot(job.header.snapshot);
  entry.set_first_page(job.pages.first_page);
  entry.set_pages(static_cast<uint32_t>(job.pages.pages));
  write_all(out_.fd(), job.header.encode(chunk_seed(header_.image_id, offset_)), out_.path());
  write_all(out_.fd(), job.payload, out_.path());
  offset_ += ChunkHeader::kSize + job.payload.size();
}

void ImageWriter::commit() {
  drain();
  const uint64_t index_offset = offset_;
  const pb::Index index = index_;
  add(kIndexChunk, index);
  drain();
  Bytes tail(sizeof index_offset);
  put(tail, 0, index_offset);
  Job job;
  job.header = {.type = kTailChunk, .flags = kRequiredFlag, .snapshot = sequence_};
  job.payload = std::move(tail);
  job.header.stored_size = job.header.raw_size = job.payload.size();
  job.header.payload_checksum = checksum(job.payload);
  write_chunk(job);
  index_ = index;  // an index does not list itself, nor its tail
  out_.commit();
}

void ImageWriter::drain() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return failure_ || jobs_.empty(); });
  rethrow_failure();
}

void ImageWriter::fail(std::exception_ptr error) {
  const std::lock_guard lock(mutex_);
  if (!failure_) failure_ = std::move(error);
  changed_.notify_all();
}

void ImageWriter::rethrow_failure() const {
  if (failure_) std::rethrow_exception(failure_);
}

}  // namespace snapgdb
