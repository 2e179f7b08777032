#include "gui/models/text.h"

#include <QLocale>
#include <QRegularExpression>

#include "core/base/strings.h"
#include "core/inspect/words.h"

namespace snapgdb::gui {
namespace {

// A command line may be 2 MiB long; laying out that much for one cell takes seconds.
constexpr size_t kLongestText = 2000;

bool continues_character(char c) {
  return (static_cast<unsigned char>(c) & 0xc0) == 0x80;
}

// As many whole characters of it as are shown.
std::string_view beginning(std::string_view text) {
  if (text.size() <= kLongestText) return text;
  size_t end = kLongestText;
  for (int i = 0; i < 3 && continues_character(text[end]); ++i) --end;
  return text.substr(0, end);
}

}  // namespace

QString line(std::string_view harmless) {
  const std::string_view start = beginning(harmless);
  const QString shown = QString::fromUtf8(start.data(), static_cast<qsizetype>(start.size()));
  return start.size() < harmless.size() ? shown + QChar(0x2026) : shown;
}

QString text(std::string_view bytes) {
  const std::string_view start = beginning(bytes);
  const QString shown = QString::fromStdString(printable(start));
  return start.size() < bytes.size() ? shown + QChar(0x2026) : shown;
}

QString command_line(const pb::Process& process) {
  std::string joined;
  for (const std::string& argument : process.arguments()) {
    if (!joined.empty()) joined += ' ';
    joined += argument;
    if (joined.size() > kLongestText) break;
  }
  return text(joined);
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
  return QString::fromStdString(snapgdb::counted(number, singular, plural));
}

QString signal_name(uint32_t number) {
  return QString::fromStdString(snapgdb::signal_name(number));
}

QString signal_set(uint64_t bits) {
  return QString::fromStdString(snapgdb::signal_set(bits));
}

QString state_word(std::string_view letter) {
  return QString::fromStdString(snapgdb::state_word(letter));
}

QString exit_text(int32_t wait_status) {
  return QString::fromStdString(snapgdb::exit_text(wait_status));
}

}  // namespace snapgdb::gui
