#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace snapgdb {

// Threads that wait for work, with memory at hand for its results: where every millisecond counts,
// no thread has to be made then, and no page to be fetched.
class Crew {
 public:
  // As many as there are processors, but for one and at most `others`. Memory that was allocated
  // and freed again stays with this process from now on (mallopt(3)), up to 16 MiB a thread.
  explicit Crew(size_t others);
  ~Crew();
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  // Calls theirs() in each of them and own() in this thread, and returns when all are done. Throws
  // what the first of them threw.
  void run(const std::function<void()>& theirs, const std::function<void()>& own);
  void run(const std::function<void()>& everybodys) { run(everybodys, everybodys); }

 private:
  void work(std::stop_token stop);
  void note_failure();

  std::mutex mutex_;
  std::condition_variable_any begin_, done_;
  const std::function<void()>* work_ = nullptr;
  uint64_t round_ = 0;
  size_t busy_ = 0;
  std::exception_ptr failure_;
  std::vector<std::jthread> threads_;  // last: they use the rest
};

}  // namespace snapgdb
