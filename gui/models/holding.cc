#include "gui/models/holding.h"

#include <QStringList>

#include <algorithm>

#include "gui/models/text.h"

namespace snapgdb::gui {
namespace {

constexpr size_t kMostReasons = 8;

void add_lack(Holding& holding, const std::string& reason, uint64_t start, uint64_t bytes,
              bool withheld = false) {
  auto known = std::ranges::find(holding.lacks, reason, &Holding::Lack::reason);
  if (known == holding.lacks.end() && holding.lacks.size() == kMostReasons) --known;
  if (known == holding.lacks.end())
    holding.lacks.push_back({reason, start, bytes, withheld});
  else
    known->bytes += bytes;
}

void add_run(Holding& holding, const ContentRun& run) {
  switch (run.kind) {
    case ContentRun::Kind::kStored:
      (run.in_file ? holding.in_file : holding.stored) += run.size();
      return;
    case ContentRun::Kind::kZeros:
      (run.in_file ? holding.in_file : holding.zero) += run.size();
      return;
    case ContentRun::Kind::kBeyondEnd:
      holding.beyond_end += run.size();
      return;
    case ContentRun::Kind::kMissing:
      add_lack(holding, run.reason, run.start, run.size(), run.kept_by != KeptBy::kNobody);
  }
}

}  // namespace

uint64_t Holding::missing() const {
  uint64_t bytes = 0;
  for (const Lack& lack : lacks) bytes += lack.withheld ? 0 : lack.bytes;
  return bytes;
}

uint64_t Holding::withheld() const {
  uint64_t bytes = 0;
  for (const Lack& lack : lacks) bytes += lack.withheld ? lack.bytes : 0;
  return bytes;
}

Holding holding(const Snapshot& snapshot, const pb::Process& process, const pb::Vma& vma) {
  Holding result;
  uint64_t reached = vma.start();
  const auto skip_to = [&](uint64_t next) {  // what no extent covers was not captured
    if (next > reached) add_lack(result, "not captured", reached, next - reached);
  };
  snapshot.visit_memory(process, vma.start(), vma.end(), [&](const ContentRun& run) {
    skip_to(run.start);
    add_run(result, run);
    reached = run.end;
  });
  skip_to(vma.end());
  return result;
}

QString holding_text(const Holding& holding) {
  const std::pair<const char*, uint64_t> parts[] = {
      {"stored", holding.stored},       {"zero", holding.zero},
      {"from file", holding.in_file},   {"behind end of file", holding.beyond_end},
      {"withheld", holding.withheld()}, {"missing", holding.missing()}};
  QStringList present;
  for (const auto& [name, bytes] : parts)
    if (bytes) present += QLatin1String(name) + QLatin1Char(' ') + size(bytes);
  return present.join(QStringLiteral(", "));
}

QString lacks_text(const Holding& holding) {
  QStringList lines;
  for (const Holding::Lack& lack : holding.lacks)
    lines += QStringLiteral("%1 %2, from %3 on: %4")
                 .arg(size(lack.bytes), QLatin1String(lack.withheld ? "withheld" : "missing"),
                      address(lack.start), text(lack.reason));
  return lines.join(QLatin1Char('\n'));
}

}  // namespace snapgdb::gui
