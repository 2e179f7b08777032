#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "core/linux/detour.h"

namespace snapgdb {

// System calls whose answers a task of the program writes into memory of its own.
class Inquiry {
 public:
  // `answers`: bytes in all; `calls`: their number. Both at most.
  Inquiry(Tracee& host, const Detour::Place& place, size_t answers, size_t calls)
      : detour_(host, place, room_for(answers, calls)), memory_(answers) {}
  static size_t room_for(size_t answers, size_t calls) { return answers + Detour::room_for(calls); }

  // Where the kernel finds what is in `out`, and is to write what will be.
  template <typename Answer>
  uint64_t address_for(Answer& out) {
    const size_t at = (used_ + alignof(Answer) - 1) / alignof(Answer) * alignof(Answer);
    used_ = at + sizeof(Answer);
    answers_.push_back({at, std::as_writable_bytes(std::span(&out, 1))});
    std::memcpy(&memory_[at], &out, sizeof out);
    return detour_.scratch() + at;
  }
  // `result`: gets what the call returns.
  void call(long number, const SystemCallArguments& arguments, int32_t* result = nullptr) {
    calls_.push_back({number, arguments});
    results_.push_back(result);
  }
  bool may_call(long number, const SystemCallArguments& arguments) const {
    return detour_.is_let_pass({number, arguments});
  }
  bool goes_by_itself() const { return detour_.goes_by_itself(); }
  void begin() {
    detour_.write(detour_.scratch(), memory_);  // what a call leaves alone reads as it was
    detour_.begin(calls_);
  }
  bool proceed() { return detour_.proceed(); }
  void finish() {
    const std::vector<int32_t> results = detour_.finish();
    for (size_t i = 0; i < results.size(); ++i)
      if (results_[i]) *results_[i] = results[i];
    detour_.read(detour_.scratch(), memory_);
    detour_.go_home();
    for (const auto& [at, out] : answers_) std::memcpy(out.data(), &memory_[at], out.size());
  }

 private:
  struct Answer {
    size_t at;
    std::span<std::byte> out;
  };
  Detour detour_;
  std::vector<std::byte> memory_;
  size_t used_ = 0;
  std::vector<Answer> answers_;
  std::vector<SystemCall> calls_;
  std::vector<int32_t*> results_;
};

}  // namespace snapgdb
