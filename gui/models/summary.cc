#include "gui/models/summary.h"

#include <QDateTime>
#include <QStringList>

#include <algorithm>

#include "gui/models/text.h"

namespace snapgdb::gui {
namespace {

template <typename Record>
struct FactRow {
  const char* name;
  const char* explanation;
  QString (*value)(const Record&);
};

template <typename Record, size_t N>
std::vector<Fact> facts(const Record& record, const FactRow<Record> (&rows)[N]) {
  std::vector<Fact> known;
  for (const FactRow<Record>& row : rows)
    if (QString value = row.value(record); !value.isEmpty())
      known.push_back({QString::fromUtf8(row.name), value, QString::fromUtf8(row.explanation)});
  return known;
}

QString joined(std::initializer_list<QString> parts, const char* separator) {
  QStringList present;
  for (const QString& part : parts)
    if (!part.isEmpty()) present += part;
  return present.join(QString::fromUtf8(separator));
}

QString when(const Snapshot& snapshot) {
  const int64_t realtime = snapshot.record().realtime_ns();
  if (realtime == 0) return {};
  const QDateTime time = QDateTime::fromMSecsSinceEpoch(realtime / 1'000'000);
  return time.toString(QStringLiteral("yyyy-MM-dd HH:mm:ss.zzz t"));
}

QString machine(const Snapshot& snapshot) {
  const pb::Host& host = snapshot.record().host();
  return joined(
      {text(host.cpu_model()),
       host.processors() ? counted(host.processors(), "processor", "processors") : QString()},
      ", ");
}

QString focus(const Snapshot& snapshot) {
  const pb::SnapshotRecord& record = snapshot.record();
  if (!record.focus_tid()) return {};
  return QStringLiteral("thread %1 of process %2").arg(record.focus_tid()).arg(record.focus_pid());
}

QString pages(const Snapshot& snapshot) {
  const pb::SnapshotRecord& record = snapshot.record();
  if (!record.stored_pages() && !record.shared_pages() && !record.zero_pages()) return {};
  return QStringLiteral("%1 stored, %2 equal to others and not stored again, %3 zero")
      .arg(record.stored_pages())
      .arg(record.shared_pages())
      .arg(record.zero_pages());
}

QString files(const Snapshot& snapshot) {
  uint64_t carried = 0, bytes = 0;
  for (const pb::FileRecord& file : snapshot.files()) {
    if (!file.embedded()) continue;
    ++carried;
    bytes += file.size();
  }
  if (snapshot.files().empty()) return {};
  return QStringLiteral("%1 of %2 in the image, %3")
      .arg(carried)
      .arg(counted(snapshot.files().size(), "file", "files"),
           bytes ? size(bytes) : QStringLiteral("empty"));
}

const FactRow<Snapshot> kSnapshotFacts[] = {
    {"Program", "The command line of the tree's root", program_title},
    {"Reason", "Why the snapshot was taken",
     [](const Snapshot& s) { return text(s.record().reason()); }},
    {"Taken", "The time on the captured machine, shown in this machine's time zone", when},
    {"Paused for", "From the first thread stopped to the last one set going again",
     [](const Snapshot& s) {
       return s.record().pause_ns() ? duration(s.record().pause_ns()) : QString();
     }},
    {"Tree", "What was captured", tree_size},
    {"In focus", "The thread a debugger shows first", focus},
    {"Host", "Name, kernel and architecture of the captured machine",
     [](const Snapshot& s) {
       const pb::Host& host = s.record().host();
       return joined({text(host.node_name()), text(host.os_release()), text(host.machine())}, ", ");
     }},
    {"Processor", "Model and number of the captured machine's processors", machine},
    {"Memory", "How memory was kept from changing while it was read",
     [](const Snapshot& s) { return text(s.record().memory_method()); }},
    {"Pages", "Pages of 4 KiB in this snapshot", pages},
    {"Files", "Programs and libraries that the image carries, so that it opens anywhere", files},
    {"snapgdb", "The version that took the snapshot",
     [](const Snapshot& s) { return text(s.record().tool_version()); }},
};

QString ids(uint32_t real, uint32_t effective) {
  if (real == effective) return QString::number(real);
  return QStringLiteral("%1, effective %2").arg(real).arg(effective);
}

QString user(const pb::Process& process) {
  if (process.threads().empty()) return {};
  const pb::Credentials& who = process.threads(0).credentials();
  return QStringLiteral("uid %1; gid %2")
      .arg(ids(who.ruid(), who.euid()), ids(who.rgid(), who.egid()));
}

QString terminal(const pb::Process& process) {
  const uint64_t device = process.terminal();
  if (!device) return {};
  // MINOR and MAJOR of include/linux/kdev_t.h, as new_encode_dev() packs them.
  const uint64_t major = device >> 8 & 0xfff, minor = (device & 0xff) | (device >> 12 & 0xfff00);
  if (major >= 136 && major <= 143)
    return QStringLiteral("/dev/pts/%1").arg((major - 136) * 256 + minor);
  return QStringLiteral("device %1:%2").arg(major).arg(minor);
}

// That of version 2 (0::), where there is one; it is what systemd and containers use.
QString control_group(const pb::Process& process) {
  if (process.cgroups().empty()) return {};
  for (const std::string& line : process.cgroups())
    if (line.starts_with("0::")) return text(std::string_view(line).substr(3));
  return text(process.cgroups(0));
}

// A line each; of very many, the first.
QString lines(std::vector<QString> all) {
  constexpr size_t kMost = 200;
  const size_t more = all.size() - std::min(all.size(), kMost);
  all.resize(all.size() - more);
  if (more) all.push_back(QStringLiteral("and %1 more").arg(more));
  return QStringList(all.begin(), all.end()).join(QLatin1Char('\n'));
}

QString limits(const pb::Process& process) {
  const auto number = [](uint64_t value) {
    return value == UINT64_MAX ? QStringLiteral("unlimited") : QString::number(value);
  };
  std::vector<QString> all;
  for (const pb::Limit& limit : process.limits())
    all.push_back(QStringLiteral("%1: %2").arg(text(limit.name()), number(limit.soft())) +
                  (limit.soft() == limit.hard()
                       ? QString()
                       : QStringLiteral(", at most %1").arg(number(limit.hard()))));
  return lines(std::move(all));
}

// Threads mostly have the same ones.
QString keyrings(const pb::Process& process) {
  std::vector<QString> all;
  for (const pb::Thread& thread : process.threads())
    for (const pb::Keyring& ring : thread.keyrings()) {
      QString line =
          QStringLiteral("%1: %2").arg(text(ring.kind()), counted(ring.keys(), "key", "keys"));
      for (const std::string& key : ring.key_descriptions())
        line += QStringLiteral(", ") +
                (key.empty() ? QStringLiteral("one that may not be seen") : text(key));
      if (std::ranges::find(all, line) == all.end()) all.push_back(std::move(line));
    }
  return lines(std::move(all));
}

QString environment(const pb::Process& process) {
  std::vector<QString> all;
  for (const std::string& variable : process.environment()) all.push_back(text(variable));
  return lines(std::move(all));
}

const FactRow<pb::Process> kProcessFacts[] = {
    {"Command line", "The arguments the program was started with", command_line},
    {"Executable", "The program file",
     [](const pb::Process& p) {
       return text(p.executable()) + QLatin1String(p.executable_deleted() ? " (deleted)" : "");
     }},
    {"State", "What it was doing before the snapshot stopped it",
     [](const pb::Process& p) {
       const QString word = state_word(p.state());
       return p.state() == "Z" ? word + QStringLiteral(", ") + exit_text(p.exit_status()) : word;
     }},
    {"Parent", "The process that started it, or adopted it",
     [](const pb::Process& p) { return QString::number(p.parent()); }},
    {"Group, session", "The process group (job) and the session it belongs to",
     [](const pb::Process& p) { return QStringLiteral("%1, %2").arg(p.group()).arg(p.session()); }},
    {"Terminal", "Its controlling terminal", terminal},
    {"User", "User and group it runs as", user},
    {"Directory", "Its working directory",
     [](const pb::Process& p) { return text(p.working_directory()); }},
    {"Root", "Its root directory, if it is not /",
     [](const pb::Process& p) {
       return p.root_directory() == "/" ? QString() : text(p.root_directory());
     }},
    {"Signals caught", "Signals for which it has a handler",
     [](const pb::Process& p) { return signal_set(p.signals_caught()); }},
    {"Signals ignored", "Signals that it ignores",
     [](const pb::Process& p) { return signal_set(p.signals_ignored()); }},
    {"Control group", "Where it stands in the hierarchy of control groups", control_group},
    {"Limits", "Its resource limits, getrlimit(2)", limits},
    {"Keyrings", "What its threads have beside the keyrings of their user, keyrings(7)", keyrings},
    {"Environment", "Its environment when it began", environment},
};

}  // namespace

std::vector<Fact> snapshot_facts(const Snapshot& snapshot) {
  return facts(snapshot, kSnapshotFacts);
}

std::vector<Fact> process_facts(const pb::Process& process) {
  return facts(process, kProcessFacts);
}

QString program_title(const Snapshot& snapshot) {
  const QString command = command_line(snapshot.root());
  return command.isEmpty() ? text(snapshot.root().name()) : command;
}

QString tree_size(const Snapshot& snapshot) {
  uint64_t threads = 0;
  for (const pb::Process& process : snapshot.processes())
    threads += static_cast<uint64_t>(process.threads_size());
  return QStringLiteral("%1, %2").arg(counted(snapshot.processes().size(), "process", "processes"),
                                      counted(threads, "thread", "threads"));
}

}  // namespace snapgdb::gui
