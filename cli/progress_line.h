#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "core/base/progress.h"

namespace snapgdb::cli {

// Shows on standard error how far long work is, for as long as it lives, if that is the terminal
// that we are in the foreground of. What is done sooner than one looks up is not shown.
class ProgressLine {
 public:
  explicit ProgressLine(std::string what);  // "writing the core"
  ~ProgressLine();                          // takes the line away
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  Progress* progress() { return &progress_; }

 private:
  void draw_until_over();

  std::string what_;
  Progress progress_;
  std::mutex mutex_;
  std::condition_variable over_;
  bool is_over_ = false;
  std::thread drawing_;
};

}  // namespace snapgdb::cli
