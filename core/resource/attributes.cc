#include "core/resource/attributes.h"

#include <sys/xattr.h>

#include "core/base/strings.h"

namespace snapgdb {

void add_attributes(const std::string& place, bool is_link,
                    google::protobuf::RepeatedPtrField<pb::ExtendedAttribute>& out) {
  constexpr size_t kMost = 64 * 1024;  // XATTR_LIST_MAX and XATTR_SIZE_MAX, in bytes
  const auto list = is_link ? ::llistxattr : ::listxattr;
  const auto get = is_link ? ::lgetxattr : ::getxattr;
  if (list(place.c_str(), nullptr, 0) <= 0) return;  // as nearly always
  std::string names(kMost, '\0');
  const ssize_t size = list(place.c_str(), names.data(), names.size());
  if (size <= 0) return;
  names.resize(static_cast<size_t>(size));
  for (const std::string_view name : split(names, '\0')) {
    std::string value(kMost, '\0');
    const std::string key(name);
    const ssize_t length = get(place.c_str(), key.c_str(), value.data(), value.size());
    if (key.empty() || length < 0) continue;
    value.resize(static_cast<size_t>(length));
    pb::ExtendedAttribute& attribute = *out.Add();
    attribute.set_name(key);
    attribute.set_value(std::move(value));
  }
}

}  // namespace snapgdb
