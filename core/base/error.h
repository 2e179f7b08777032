#pragma once

#include <fmt/format.h>

#include <cerrno>
#include <exception>
#include <string>
#include <string_view>

namespace snapgdb {

// Exit statuses are a contract with scripts (docs/command-line.md).
enum class ExitStatus : int { kDone = 0, kFailed = 1, kUsage = 2, kIncomplete = 3 };

// What a caller cannot expect and cannot mend: thrown where it happens, shown once, by main().
// What a caller must expect (a task that died meanwhile) is a value instead, and named …_if_alive.
class Error : public std::exception {
 public:
  // tried: "cannot open image x.snapgdb"; why: "it was cut off"; help: what the user can do, or "".
  Error(std::string tried, std::string why, std::string help = "",
        ExitStatus status = ExitStatus::kFailed);

  const char* what() const noexcept override { return text_.c_str(); }
  const std::string& why() const { return why_; }
  ExitStatus status() const { return status_; }

  // The same error seen from further out: its message becomes "tried: <this message>".
  Error within(std::string_view tried) const;

 private:
  std::string text_;
  std::string why_;
  ExitStatus status_;
};

// An Error made of a failed system call: tried, then the errno's text.
class SystemError : public Error {
 public:
  SystemError(std::string tried, int error_number, std::string help = "");
  int error_number() const { return error_number_; }

 private:
  int error_number_;
};

std::string errno_text(int error_number);

// Throws SystemError for the current errno: throw_errno("cannot open {}", path).

template <typename... Args>
[[noreturn]] void throw_errno(fmt::format_string<Args...> tried, Args&&... args) {
  const int saved = errno;
  throw SystemError(fmt::format(tried, std::forward<Args>(args)...), saved);
}

}  // namespace snapgdb
