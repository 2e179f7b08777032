#pragma once

#include <QString>
#include <QThreadPool>
#include <QtConcurrent>

#include <exception>
#include <new>
#include <type_traits>
#include <utility>
#include <variant>

namespace snapgdb::gui {

// What a job made, or one line that says why it could not.
template <typename Result>
using Outcome = std::variant<Result, QString>;

// The threads for all jobs. A job cannot be interrupted (it may hang in a read from a pipe), so
// there are a few more threads than work, and whoever ends the program does not wait for them.
inline QThreadPool& background_threads() {
  static QThreadPool threads;
  threads.setMaxThreadCount(8);
  return threads;
}

// Runs `work` off the calling thread; what it throws becomes the outcome's line. `work` must own
// whatever it uses: the object that started it may be gone before it ends.
template <typename Work>
auto run_in_background(Work work) {
  using Result = std::invoke_result_t<Work>;
  return QtConcurrent::run(&background_threads(),
                           [work = std::move(work)]() mutable -> Outcome<Result> {
                             try {
                               return work();
                             } catch (const std::bad_alloc&) {
                               return QStringLiteral("there is not enough memory for it");
                             } catch (const std::exception& error) {
                               return QString::fromUtf8(error.what());
                             }
                           });
}

}  // namespace snapgdb::gui
