#include "core/base/error.h"

#include <cstring>

namespace snapgdb {
namespace {

std::string sentence(std::string_view tried, std::string_view why, std::string_view help) {
  std::string text(tried);
  if (!why.empty()) text += fmt::format(": {}", why);
  if (!help.empty()) text += fmt::format(" ({})", help);
  return text;
}

}  // namespace

Error::Error(std::string tried, std::string why, std::string help, ExitStatus status)
    : text_(sentence(tried, why, help)), why_(std::move(why)), status_(status) {}

Error Error::within(std::string_view tried) const {
  Error outer(std::string(tried), text_, "", status_);
  outer.why_ = why_;
  return outer;
}

SystemError::SystemError(std::string tried, int error_number, std::string help)
    : Error(std::move(tried), errno_text(error_number), std::move(help)),
      error_number_(error_number) {}

std::string errno_text(int error_number) {
  char buffer[128];
  return strerror_r(error_number, buffer, sizeof buffer);
}

}  // namespace snapgdb
