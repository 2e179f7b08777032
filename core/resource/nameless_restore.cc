// Files that have no name: the counterpart of nameless.cc.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/linux/reopened.h"
#include "core/resource/memory.h"
#include "core/resource/nameless.h"
#include "core/resource/restorer.h"

namespace snapgdb {
namespace {

constexpr std::string_view kMemfd = "/memfd:";

timespec mtime_of(const pb::FileRecord& record) {
  constexpr int64_t kSecond = 1'000'000'000;
  const int64_t rest = (record.mtime_ns() % kSecond + kSecond) % kSecond;
  return {(record.mtime_ns() - rest) / kSecond, rest};
}

Fd make_memfd(const std::string& name, uint64_t huge_page_size) {
  unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  if (huge_page_size)
    flags |= MFD_HUGETLB | static_cast<unsigned>(std::countr_zero(huge_page_size))
                               << MAP_HUGE_SHIFT;
  return Fd(::memfd_create(name.c_str(), flags));
}

// write(2) does not know huge pages.
void write_huge(const Fd& fd, uint64_t page_size, uint64_t offset, std::span<const std::byte> data,
                const std::string& path) {
  const uint64_t start = offset & ~(page_size - 1);
  const uint64_t size = (offset - start + data.size() + page_size - 1) & ~(page_size - 1);
  void* memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(),
                        static_cast<off_t>(start));
  if (memory == MAP_FAILED) throw_errno("cannot map huge pages for {}", printable(path));
  std::memcpy(static_cast<std::byte*>(memory) + (offset - start), data.data(), data.size());
  ::munmap(memory, size);
}

}  // namespace

void fill_from_image(const Fd& fd, const Snapshot& snapshot, const pb::FileRecord& file) {
  if (::ftruncate(fd.get(), static_cast<off_t>(file.size())) != 0)
    throw_errno("cannot give {} its size of {} bytes", printable(file.path()), file.size());
  std::vector<std::byte> buffer(size_t{1} << 20);
  const Extents content = Extents::from_record(file.content());
  for (const Extent& extent : content.all()) {
    if (extent.source != pb::SOURCE_STORED) continue;
    const uint64_t end = std::min(extent.end(), file.size());
    for (uint64_t at = extent.start; at < end;) {
      const auto block = std::span(buffer).first(std::min<uint64_t>(buffer.size(), end - at));
      snapshot.read_file(file, at, block);
      if (file.huge_page_size())
        write_huge(fd, file.huge_page_size(), at, block, file.path());
      else
        pwrite_all(fd.get(), block, at, file.path());
      at += block.size();
    }
  }
}

namespace {

// "/tmp/#4711": it never had a name (O_TMPFILE), so that it may be given one yet, unless it was
// made with O_EXCL, which the kernel does not show.
bool never_had_a_name(const std::string& path) {
  const std::string name = path.substr(path.rfind('/') + 1);
  return name.starts_with('#') && parse_number<uint64_t>(name.substr(1));
}

// By its old name, so that it shows itself as it did; where that is taken, or there was none, in
// the same directory. Invalid, with errno set, if neither is possible.
Fd make_removed(const std::string& path) {
  constexpr int kFlags = O_RDWR | O_CLOEXEC;
  const auto make_without = [&] {
    return Fd(::open(path.substr(0, path.rfind('/') + 1).c_str(), kFlags | O_TMPFILE, 0600));
  };
  Fd file = never_had_a_name(path) ? make_without() : Fd();
  if (file.valid()) return file;
  file = Fd(::open(path.c_str(), kFlags | O_CREAT | O_EXCL, 0600));
  if (file.valid() && ::unlink(path.c_str()) != 0) throw_errno("cannot remove {}", printable(path));
  return file.valid() ? std::move(file) : make_without();
}

bool has_attribute(const Fd& file, const pb::ExtendedAttribute& wanted) {
  std::string value(wanted.value().size() + 1, '\0');
  const ssize_t size = ::fgetxattr(file.get(), wanted.name().c_str(), value.data(), value.size());
  return size >= 0 && value.substr(0, static_cast<size_t>(size)) == wanted.value();
}

// An ordinary user may set those of users only (user.*, xattr(7)); others it may have got anew.
void set_attributes(OpeningContext& context, const Fd& file, const pb::FileRecord& record) {
  for (const pb::ExtendedAttribute& attribute : record.attributes())
    if (!has_attribute(file, attribute) &&
        ::fsetxattr(file.get(), attribute.name().c_str(), attribute.value().data(),
                    attribute.value().size(), 0) != 0)
      context.notes.push_back(fmt::format("{} lacks its attribute {}: {}", printable(record.path()),
                                          printable(attribute.name()), errno_text(errno)));
}

}  // namespace

Fd make_nameless(const std::string& path, uint64_t huge_page_size) {
  if (huge_page_size && !std::has_single_bit(huge_page_size))
    throw Error("cannot make " + printable(path),
                fmt::format("there are no pages of {} bytes", huge_page_size));
  const auto starts_with = [&](std::string_view prefix) { return path.starts_with(prefix); };
  const bool was_somewhere =
      starts_with("/") && !starts_with(kMemfd) && !huge_page_size && !is_only_mapped(path);
  Fd file;
  if (was_somewhere) file = make_removed(path);
  if (!file.valid())
    file = make_memfd(
        starts_with(kMemfd) ? path.substr(kMemfd.size()) : path.substr(path.rfind('/') + 1),
        huge_page_size);
  if (!file.valid()) throw_errno("cannot make {}", printable(path));
  return file;
}

Fd make_nameless(const Snapshot& snapshot, const pb::FileRecord& file) {
  Fd made = make_nameless(file.path(), file.huge_page_size());
  fill_from_image(made, snapshot, file);
  return made;
}

OpeningContext::ObjectKey OpeningContext::key_of(const pb::Descriptor& descriptor) {
  if (descriptor.nameless()) return {0, descriptor.nameless()};
  return {descriptor.device(), descriptor.inode()};
}

OpeningContext::ObjectKey OpeningContext::key_of(const pb::Vma& mapping) {
  if (mapping.nameless()) return {0, mapping.nameless()};
  return {device_of(mapping), mapping.inode()};
}

Fd open_again(const Fd& object, uint32_t flags, const pb::Descriptor& descriptor, bool same) {
  Fd file = same ? Fd(::fcntl(object.get(), F_DUPFD_CLOEXEC, 0))
                 : reopened(object, static_cast<int>(flags));
  if (!file.valid()) throw_errno("cannot open {}", printable(descriptor.target()));
  go_to_position(file, descriptor);
  return file;
}

void finish_nameless(OpeningContext& context) {
  const bool may_give_away = ::geteuid() == 0;
  for (const auto& [key, file] : context.objects) {
    if (key.first != 0) continue;
    const pb::FileRecord& record = *context.snapshot.file(static_cast<uint32_t>(key.second));
    // EINVAL: a user that the tree's user namespace does not have.
    if (may_give_away &&
        ::fchown(file.get(), context.numbers.user(record.owner()),
                 context.numbers.group(record.group())) != 0 &&
        errno != EINVAL)
      throw_errno("cannot give {} to user {}", printable(record.path()), record.owner());
    set_attributes(context, file, record);
    const timespec times[] = {{.tv_sec = 0, .tv_nsec = UTIME_OMIT}, mtime_of(record)};
    if (::fchmod(file.get(), record.mode() & 07777) != 0 || ::futimens(file.get(), times) != 0)
      throw_errno("cannot set the rights and the time of {}", printable(record.path()));
  }
}

const Fd& nameless_object(OpeningContext& context, const pb::Descriptor& descriptor) {
  const auto [known, is_new] = context.objects.try_emplace(OpeningContext::key_of(descriptor));
  Fd& object = known->second;
  if (!is_new) return object;
  if (descriptor.nameless())
    return object = make_nameless(context.snapshot, *context.snapshot.file(descriptor.nameless()));
  object = make_nameless(descriptor.target());
  if (::ftruncate(object.get(), static_cast<off_t>(descriptor.size())) != 0 ||
      ::fchmod(object.get(), descriptor.mode() & 07777) != 0)
    throw_errno("cannot make {} of {} bytes", printable(descriptor.target()), descriptor.size());
  return object;
}

std::string why_not_in_image(const Snapshot& snapshot, uint32_t file) {
  const pb::FileRecord* record = snapshot.file(file);
  if (!record) return kNotInImage;
  if (!record->embedded()) return kNotInImage + (": " + record->why_not_embedded());
  const uint64_t lost = snapshot.lost_bytes(*record);
  return lost ? fmt::format("{} bytes of its content are lost, the image is damaged", lost) : "";
}

std::string why_not_in_image(const Snapshot& snapshot, const pb::Descriptor& descriptor) {
  if (descriptor.nameless()) return why_not_in_image(snapshot, descriptor.nameless());
  if (descriptor.size() == 0) return "";
  const auto shows_it = [&](const pb::Vma& vma) {
    return vma.shared() && vma.deleted() && vma.inode() == descriptor.inode();
  };
  for (const pb::Process& process : snapshot.processes())
    if (std::ranges::any_of(process.mappings(), shows_it)) return "";
  return kNotInImage;
}

}  // namespace snapgdb
