#include "gui/models/text.h"

#include <string.h>
#include <sys/wait.h>

#include <QLocale>
#include <QRegularExpression>
#include <QStringList>

#include <array>
#include <csignal>

#include "core/base/strings.h"

namespace snapgdb::gui {
namespace {

// A command line may be 2 MiB long; laying out that much for one cell takes seconds.
constexpr size_t kLongestText = 2000;

bool continues_character(char c) {
  return (static_cast<unsigned char>(c) & 0xc0) == 0x80;
}

}  // namespace

QString text(std::string_view bytes) {
  if (bytes.size() <= kLongestText) return QString::fromStdString(printable(bytes));
  size_t cut = kLongestText;
  for (int i = 0; i < 3 && continues_character(bytes[cut]); ++i) --cut;
  return QString::fromStdString(printable(bytes.substr(0, cut))) + QChar(0x2026);
}

QString command_line(const pb::Process& process) {
  std::string line;
  for (const std::string& argument : process.arguments()) {
    if (!line.empty()) line += ' ';
    line += argument;
    if (line.size() > kLongestText) break;
  }
  return text(line);
}

QString address(uint64_t value) {
  return QStringLiteral("0x") + QString::number(value, 16);
}

QString size(uint64_t bytes) {
  if (bytes == 0) return {};
  uint64_t unit = 1;
  while (unit <= bytes / 1000) unit *= 1024;
  static const QRegularExpression kOnlyZeros(QStringLiteral("\\.0+(?= )"));
  QString text = QString::fromStdString(human_size(bytes));
  // "4 KiB", not "4.00 KiB": most sizes of memory are whole.
  if (bytes % unit == 0) text.remove(kOnlyZeros);
  return text;
}

QString exact_size(uint64_t bytes) {
  return QLocale(QLocale::English).toString(static_cast<qulonglong>(bytes)) +
         QStringLiteral(" bytes");
}

QString duration(uint64_t nanoseconds) {
  return QString::fromStdString(human_duration(nanoseconds));
}

QString counted(uint64_t number, const char* singular, const char* plural) {
  return QStringLiteral("%1 %2").arg(number).arg(QLatin1String(number == 1 ? singular : plural));
}

QString signal_name(uint32_t number) {
  if (number == 0) return {};
  const int signal = static_cast<int>(number);
  if (const char* name = sigabbrev_np(signal)) return QStringLiteral("SIG") + QLatin1String(name);
  // Named as kill -l does: glibc keeps the first two real-time signals, 32 and 33, for itself.
  if (signal == SIGRTMIN) return QStringLiteral("SIGRTMIN");
  if (signal > SIGRTMIN && signal <= SIGRTMAX)
    return QStringLiteral("SIGRTMIN+%1").arg(signal - SIGRTMIN);
  if (signal == 32 || signal == 33) return QStringLiteral("SIG%1").arg(signal);
  return QStringLiteral("signal %1").arg(number);
}

QString signal_set(uint64_t bits) {
  QStringList names;
  for (uint32_t number = 1; number <= 64; ++number)
    if (bits >> (number - 1) & 1) names += signal_name(number);
  return names.join(QLatin1Char(' '));
}

QString state_word(std::string_view letter) {
  struct State {
    char letter;
    const char* word;
  };
  // Letters: Documentation/filesystems/proc.rst, table 1-2, and fs/proc/array.c.
  static constexpr std::array kStates{
      State{'R', "running"}, State{'S', "sleeping"}, State{'D', "disk sleep"},
      State{'T', "stopped"}, State{'t', "traced"},   State{'Z', "zombie"},
      State{'X', "dead"},    State{'I', "idle"},
  };
  for (const State& state : kStates)
    if (letter.size() == 1 && letter[0] == state.letter) return QLatin1String(state.word);
  return text(letter);
}

QString exit_text(int32_t wait_status) {
  if (WIFSIGNALED(wait_status))
    return QStringLiteral("killed by ") + signal_name(static_cast<uint32_t>(WTERMSIG(wait_status)));
  return QStringLiteral("exit status %1").arg(WEXITSTATUS(wait_status));
}

QString bit_names(uint64_t bits, const BitNames& names) {
  QStringList words;
  for (const auto& [bit, name] : names) {
    if ((bits & bit) != bit) continue;
    words += QLatin1String(name);
    bits &= ~bit;
  }
  if (bits) words += address(bits);
  return words.join(QLatin1Char(' '));
}

}  // namespace snapgdb::gui
