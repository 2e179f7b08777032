#include "cli/progress_line.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "core/base/strings.h"

namespace snapgdb::cli {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kPatience{500}, kInterval{100};

// A terminal that was stopped by ^S takes nothing; and what is written from the background stops
// the whole process where `stty tostop` is set, maybe while a tree is held.
bool takes_text() {
  pollfd terminal{STDERR_FILENO, POLLOUT, 0};
  return ::tcgetpgrp(STDERR_FILENO) == ::getpgrp() && ::poll(&terminal, 1, 0) == 1 &&
         (terminal.revents & POLLOUT);
}

bool write_if_taken(std::string_view text) {
  return takes_text() && ::write(STDERR_FILENO, text.data(), text.size()) > 0;
}

std::string line_of(const std::string& what, const Progress& progress) {
  const uint64_t total = progress.total(), done = std::min(progress.done(), total);
  if (total == 0) return what + " …";
  return fmt::format("{} {} % of {}", what,
                     static_cast<int>(static_cast<double>(done) * 100 / static_cast<double>(total)),
                     human_size(total));
}

}  // namespace

ProgressLine::ProgressLine(std::string what) : what_(std::move(what)) {
  if (!::isatty(STDERR_FILENO)) return;
  // Signals are for the thread that does the work.
  sigset_t all, before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  drawing_ = std::thread([this] { draw_until_over(); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

ProgressLine::~ProgressLine() {
  {
    const std::lock_guard lock(mutex_);
    is_over_ = true;
  }
  over_.notify_one();
  if (drawing_.joinable()) drawing_.join();
}

void ProgressLine::draw_until_over() {
  bool is_shown = false;
  std::string last;
  std::unique_lock lock(mutex_);
  for (milliseconds wait = kPatience; !over_.wait_for(lock, wait, [&] { return is_over_; });
       wait = kInterval) {
    const std::string line = line_of(what_, progress_);
    if (line != last && write_if_taken("\r\x1b[K" + line)) is_shown = true, last = line;
  }
  if (is_shown) write_if_taken("\r\x1b[K");
}

}  // namespace snapgdb::cli
