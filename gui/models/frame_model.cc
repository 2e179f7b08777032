#include "gui/models/frame_model.h"

#include "gui/models/text.h"

namespace snapgdb::gui {
namespace {

bool is_frame(const FrameRow& row) {
  return row.number >= 0;
}

QString function_in_full(const FrameRow& row) {
  return row.notes.isEmpty() ? row.function : row.function + QLatin1Char('\n') + row.notes;
}

QString base_name(const QString& path) {
  return path.section(QLatin1Char('/'), -1);
}

QString source(const Frame& frame) {
  if (frame.file.empty()) return {};
  return frame.line ? QStringLiteral("%1:%2").arg(text(frame.file)).arg(frame.line)
                    : text(frame.file);
}

QString notes(const Frame& frame) {
  if (frame.inlined) return QStringLiteral("Inlined into the function below");
  if (frame.signal_frame) return QStringLiteral("The kernel called a signal handler here");
  return {};
}

const Column<FrameRow> kColumns[] = {
    {"#", "Frame number: 0 is where the thread was", Look::kNumber,
     [](const FrameRow& row) { return is_frame(row) ? QString::number(row.number) : QString(); },
     [](const FrameRow& row) { return QVariant(row.number); }},
    {"Function", "The function; its caller is in the row below", Look::kText,
     [](const FrameRow& row) { return row.function; }, nullptr, function_in_full},
    {"Source", "Where in the source, if the image has debug information", Look::kText,
     [](const FrameRow& row) { return base_name(row.source); }, nullptr,
     [](const FrameRow& row) { return row.source; }},
    {"Module", "The program or library the code is in", Look::kText,
     [](const FrameRow& row) { return base_name(row.module); }, nullptr,
     [](const FrameRow& row) { return row.module; }},
    {"Address", "The instruction executed next", Look::kCode,
     [](const FrameRow& row) { return is_frame(row) ? address(row.address) : QString(); },
     [](const FrameRow& row) { return QVariant(qulonglong{row.address}); }},
};

}  // namespace

std::vector<FrameRow> frame_rows(const Backtrace& backtrace,
                                 const std::vector<std::string>& problems) {
  std::vector<FrameRow> rows;
  rows.reserve(backtrace.frames.size() + 1);
  for (const Frame& frame : backtrace.frames) {
    FrameRow row{static_cast<int>(rows.size()),
                 frame.pc,
                 text(function_or_place(frame)),
                 source(frame),
                 text(frame.module),
                 notes(frame),
                 {}};
    rows.push_back(std::move(row));
  }
  const auto remark = [&rows](const char* what, const std::string& why) {
    rows.push_back({-1, 0, QString::fromUtf8(what) + text(why), {}, {}, {}, text(why)});
  };
  if (!backtrace.stopped_because.empty()) remark("No more frames: ", backtrace.stopped_because);
  for (const std::string& problem : problems)
    remark("Frames, names or lines may be missing: ", problem);
  return rows;
}

FrameModel::FrameModel(QObject* parent) : TableModel(kColumns, parent) {}

}  // namespace snapgdb::gui
