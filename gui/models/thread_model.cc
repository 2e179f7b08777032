#include "gui/models/thread_model.h"

#include <algorithm>

#include "core/inspect/words.h"
#include "gui/models/lacks.h"
#include "gui/models/text.h"

namespace snapgdb::gui {
namespace {

uint64_t cpu_milliseconds(const ThreadRow& row) {
  const uint64_t ticks = row.thread->user_ticks() + row.thread->system_ticks();
  return ticks * 1000 / row.ticks_per_second;
}

QString seconds(uint64_t milliseconds) {
  return QStringLiteral("%1 s").arg(static_cast<double>(milliseconds) / 1000, 0, 'f', 2);
}

QString cpu_time_in_full(const ThreadRow& row) {
  return QStringLiteral("%1 in the program, %2 in the kernel")
      .arg(seconds(row.thread->user_ticks() * 1000 / row.ticks_per_second),
           seconds(row.thread->system_ticks() * 1000 / row.ticks_per_second));
}

QString signal_in_full(const ThreadRow& row) {
  if (row.thread->job_stopped())
    return QStringLiteral("Stopped by %1 until it gets SIGCONT")
        .arg(signal_name(row.thread->stop_signal()));
  if (row.thread->stop_signal())
    return QStringLiteral("%1 was being delivered at this moment")
        .arg(signal_name(row.thread->stop_signal()));
  const QString pending = signal_set(row.thread->signals_pending());
  return pending.isEmpty() ? pending : QStringLiteral("Pending: ") + pending;
}

QString signals(const ThreadRow& row) {
  if (row.thread->stop_signal()) return signal_name(row.thread->stop_signal());
  const QString pending = signal_set(row.thread->signals_pending());
  return pending.isEmpty() ? pending : pending + QStringLiteral(" (pending)");
}

// "fd 3: pipe, read end, pipe:[4711]"
QString call_in_full(const ThreadRow& row) {
  const SystemCallInProgress call = system_call_of(*row.thread);
  const auto& all = row.process->descriptors();
  const auto found = call.descriptor
                         ? std::ranges::find(all, *call.descriptor, &pb::Descriptor::number)
                         : all.end();
  if (found == all.end()) return line(call.words);
  return QStringLiteral("%1\n\nfd %2: %3, %4")
      .arg(line(call.words))
      .arg(*call.descriptor)
      .arg(line(descriptor_kind(*found)), text(found->target()));
}

const Column<ThreadRow> kColumns[] = {
    {"TID", "Thread number; that of the first thread is the process's", Look::kNumber,
     [](const ThreadRow& row) { return QString::number(row.thread->tid()); },
     [](const ThreadRow& row) { return QVariant(row.thread->tid()); }},
    {"Name", "The thread's name, if the program gave it one; else that of the program", Look::kText,
     [](const ThreadRow& row) { return text(row.thread->name()); }},
    {"State", "What the thread was doing before the snapshot stopped it", Look::kText,
     [](const ThreadRow& row) {
       return state_with_lacks(state_word(row.thread->state()), row.lacks);
     },
     nullptr, [](const ThreadRow& row) { return row.lacks; }},
    {"Call", "The system call it was in, with what that is about; empty: it was in the program",
     Look::kText, [](const ThreadRow& row) { return line(system_call_of(*row.thread).words); },
     nullptr, call_in_full},
    {"Waits in", "The kernel function in which the thread sleeps, where the kernel tells",
     Look::kText, [](const ThreadRow& row) { return text(row.thread->wait_channel()); }},
    {"Signal",
     "The signal that was being delivered or keeps the thread stopped; else those pending",
     Look::kText, signals, nullptr, signal_in_full},
    {"CPU time", "Processor time used since the thread started", Look::kNumber,
     [](const ThreadRow& row) { return seconds(cpu_milliseconds(row)); },
     [](const ThreadRow& row) { return QVariant(qulonglong{cpu_milliseconds(row)}); },
     cpu_time_in_full},
    {"CPU", "The processor it ran on last", Look::kNumber,
     [](const ThreadRow& row) { return QString::number(row.thread->cpu()); },
     [](const ThreadRow& row) { return QVariant(row.thread->cpu()); }},
    {"Blocked signals", "Signals in the thread's mask: they wait until it unblocks them",
     Look::kText, [](const ThreadRow& row) { return signal_set(row.thread->signal_mask()); }},
};

ThreadRow make_row(const pb::Process& process, const pb::Thread& thread, const Lacks& lacks) {
  const auto found = lacks.find({process.pid(), thread.tid()});
  ThreadRow row{&process, &thread, 100, found == lacks.end() ? QString() : found->second, {}};
  if (thread.registers().empty() && thread.state() != "Z")
    row.missing =
        row.lacks.isEmpty() ? QStringLiteral("Its registers were not captured") : row.lacks;
  return row;
}

}  // namespace

ThreadModel::ThreadModel(QObject* parent) : TableModel(kColumns, parent) {}

void ThreadModel::show(std::shared_ptr<const Snapshot> snapshot, const pb::Process* process) {
  std::vector<ThreadRow> rows;
  if (process) {
    const Lacks lacks = lacks_of(*snapshot);
    const uint32_t ticks = snapshot->record().host().clock_ticks_per_second();
    for (const pb::Thread& thread : process->threads()) {
      rows.push_back(make_row(*process, thread, lacks));
      if (ticks) rows.back().ticks_per_second = ticks;
    }
  }
  set_rows(std::move(rows), std::move(snapshot));
}

}  // namespace snapgdb::gui
