// What is mapped: files, opened again or made from the image, and shared memory.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/reopened.h"
#include "core/resource/memory.h"
#include "core/resource/nameless.h"
#include "core/resource/resources.h"

namespace snapgdb {
namespace {

Fd reopen(const Fd& file, bool writable) {
  return reopened(file, writable ? O_RDWR : O_RDONLY);
}

// What somebody may write to, or nobody execute, is no executable (replace_mm_exe_file(),
// kernel/fork.c).
Fd made_from_image(const OpeningContext& context, const PlannedFile& file,
                   const pb::FileRecord& record) {
  const Fd copy = make_nameless(record.path());
  fill_from_image(copy, context.snapshot, record);
  if (::fchmod(copy.get(), (record.mode() & 0777) | S_IRUSR | S_IWUSR) != 0)
    throw_errno("cannot set the rights of {}", printable(record.path()));
  Fd again = reopen(copy, file.writable);
  if (!again.valid()) throw_errno("cannot open {} again", printable(record.path()));
  return again;
}

// In a sandbox it stands where it stood, so that it can be found, and executed, again.
Fd put_in_place(const OpeningContext& context, const PlannedFile& file,
                const pb::FileRecord& record) {
  Fd copy = context.sandbox->replacement(*file.replacement);
  fill_from_image(copy, context.snapshot, record);
  Fd again = reopen(copy, file.writable);
  if (context.sandbox->is_in_place(*file.replacement))
    again = Fd(::open(record.path().c_str(), (file.writable ? O_RDWR : O_RDONLY) | O_CLOEXEC));
  if (!again.valid()) throw_errno("cannot open {}", printable(record.path()));
  return again;
}

// MAP_SHARED | MAP_ANONYMOUS. Its file can be had by those with CAP_CHECKPOINT_RESTORE only;
// invalid for others.
Fd anonymous_object(uint64_t size, bool is_reserved) {
  void* memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS | (is_reserved ? 0 : MAP_NORESERVE), -1, 0);
  if (memory == MAP_FAILED) throw_errno("cannot make shared memory of {} bytes", size);
  const auto start = reinterpret_cast<uint64_t>(memory);
  Fd file(
      ::open(fmt::format("/proc/self/map_files/{:x}-{:x}", start, start + page_up(size)).c_str(),
             O_RDWR | O_CLOEXEC));
  ::munmap(memory, size);
  return file;
}

uint64_t size_of_object(const Snapshot& snapshot, const RestorePlan::MappedFile& key) {
  uint64_t size = 0;
  for (const pb::Process& process : snapshot.processes())
    for (const pb::Vma& vma : process.mappings())
      if (has_file(vma) && RestorePlan::key_of(vma) == key)
        size = std::max(size, vma.offset() + (vma.end() - vma.start()));
  return size;
}

Fd open_object(OpeningContext& context, const pb::Vma& vma, bool writable) {
  const auto [known, is_new] = context.objects.try_emplace(OpeningContext::key_of(vma));
  Fd& object = known->second;
  if (is_new && vma.nameless()) {
    object = make_nameless(context.snapshot, *context.snapshot.file(vma.nameless()));
  } else if (is_new) {
    const uint64_t size = size_of_object(context.snapshot, RestorePlan::key_of(vma));
    object = make_nameless(vma.name());
    if (::ftruncate(object.get(), static_cast<off_t>(size)) != 0)
      throw_errno("cannot make shared memory of {} bytes", size);
  }
  Fd again = reopen(object, writable);
  if (!again.valid()) throw_errno("cannot open shared memory");
  return again;
}

}  // namespace

void prepare_shared_memory(OpeningContext& context, const RestorePlan& plan) {
  for (const PlannedFile& file : plan.files) {
    if (file.how != PlannedFile::How::kSharedMemory || file.mapping->name() != "/dev/zero" ||
        file.mapping->nameless())
      continue;
    const pb::Vma& vma = *file.mapping;
    Fd object = anonymous_object(size_of_object(context.snapshot, RestorePlan::key_of(vma)),
                                 !has_flag(vma, "nr"));
    if (object.valid()) context.objects[OpeningContext::key_of(vma)] = std::move(object);
  }
}

Fd open_mapped(OpeningContext& context, const PlannedFile& file) {
  const pb::Vma& vma = *file.mapping;
  if (file.how == PlannedFile::How::kSharedMemory) return open_object(context, vma, file.writable);
  const pb::FileRecord* record = context.snapshot.file(vma.file());
  if (file.replacement) return put_in_place(context, file, *record);
  if (file.how == PlannedFile::How::kFromImage) return made_from_image(context, file, *record);
  const std::string& path = !file.path.empty() ? file.path : record ? record->path() : vma.name();
  Fd fd = file.writable ? open_for_holder(context, path, O_RDWR | O_CLOEXEC)
                        : Fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) throw_errno("cannot open {}", printable(path));
  return fd;
}

}  // namespace snapgdb
