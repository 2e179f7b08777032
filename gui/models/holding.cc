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

std::string why_file_is_missing(const pb::FileRecord* file) {
  if (!file) return "it lies in a file that the image does not describe";
  return "it lies in " + file->path() + ", which is not in the image: " + file->why_not_embedded();
}

// A part of one mapping with one origin.
struct Part {
  const Extent& extent;
  uint64_t start;
  uint64_t bytes;
};

void add_file_part(Holding& holding, const Snapshot& snapshot, const Part& part) {
  const pb::FileRecord* file = snapshot.file(part.extent.what);
  if (!file || !file->embedded()) {
    add_lack(holding, why_file_is_missing(file), part.start, part.bytes);
    return;
  }
  // The kernel fills the page that holds the end of a file up with zeros.
  const uint64_t size = page_up(file->size());
  const uint64_t offset = part.extent.where + (part.start - part.extent.start);
  const uint64_t readable = offset < size ? std::min(size - offset, part.bytes) : 0;
  holding.in_file += readable;
  holding.beyond_end += part.bytes - readable;
}

void add_part(Holding& holding, const Snapshot& snapshot, const Extents& extents,
              const Part& part) {
  switch (part.extent.source) {
    case pb::SOURCE_STORED:
      holding.stored += part.bytes;
      return;
    case pb::SOURCE_ZERO:
      holding.zero += part.bytes;
      return;
    case pb::SOURCE_FILE:
      add_file_part(holding, snapshot, part);
      return;
    default:
      add_lack(holding, extents.reason(part.extent), part.start, part.bytes,
               Extents::refused(part.extent));
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
  const Extents& extents = snapshot.extents(process);
  uint64_t reached = vma.start();
  const auto skip_to = [&](uint64_t next) {  // what no extent covers was not captured
    if (next > reached) add_lack(result, "not captured", reached, next - reached);
  };
  for (const Extent& extent : extents.overlapping(vma.start(), vma.end())) {
    const uint64_t start = std::max(extent.start, vma.start());
    const uint64_t end = std::min(extent.end(), vma.end());
    skip_to(start);
    add_part(result, snapshot, extents, {extent, start, end - start});
    reached = end;
  }
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
