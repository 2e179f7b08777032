#pragma once

#include <QString>
#include <QVariant>

#include <span>

namespace snapgdb::gui {

// What the models answer beyond Qt's own roles.
enum Role : int {
  kSortRole = Qt::UserRole,  // the cell's value, typed, so that 9 comes before 10
  kMissingRole,              // QString: why this is not in the snapshot; empty if it is
  kLookRole,                 // int: a Look
  kStartRole,                // quint64: first address of the row, where a row is a range of memory
  kEndRole,                  // quint64: the address after it
};

enum class Look : int {
  kText,
  kPath,    // its end says as much as its beginning
  kNumber,  // stands on the right
  kCode,    // is read digit by digit
};

// One column of a model, all of it: title, explanation, how it looks, what it shows, how it sorts.
// A Row has a member `QString missing`: why its subject is not in the snapshot, or "".
template <typename Row>
struct Column {
  const char* title;
  const char* tooltip;
  Look look;
  QString (*text)(const Row&);
  QVariant (*sort_key)(const Row&) = nullptr;  // nullptr: sorts by its text
  QString (*more)(const Row&) = nullptr;       // the cell's tooltip; nullptr: its text in full
};

inline int alignment(Look look) {
  return static_cast<int>((look == Look::kNumber ? Qt::AlignRight : Qt::AlignLeft) |
                          Qt::AlignVCenter);
}

template <typename Row>
QString cell_tooltip(const Column<Row>& column, const Row& row) {
  const QString text = column.more ? column.more(row) : column.text(row);
  if (row.missing.isEmpty()) return text;
  if (text.isEmpty() || text == row.missing) return row.missing;
  return text + QStringLiteral("\n\n") + row.missing;
}

// What a model shows in one cell.
template <typename Row>
QVariant cell(const Column<Row>& column, int role, const Row& row) {
  switch (role) {
    case Qt::DisplayRole:
      return column.text(row);
    case Qt::ToolTipRole:
      return cell_tooltip(column, row);
    case Qt::TextAlignmentRole:
      return alignment(column.look);
    case kSortRole:
      return column.sort_key ? column.sort_key(row) : column.text(row);
    case kMissingRole:
      return row.missing;
    case kLookRole:
      return static_cast<int>(column.look);
    default:
      return {};
  }
}

template <typename Row>
QVariant header(std::span<const Column<Row>> columns, int section, int role) {
  if (section < 0 || static_cast<size_t>(section) >= columns.size()) return {};
  const Column<Row>& column = columns[static_cast<size_t>(section)];
  switch (role) {
    case Qt::DisplayRole:
      return QString::fromUtf8(column.title);
    case Qt::ToolTipRole:
      return QString::fromUtf8(column.tooltip);
    case Qt::TextAlignmentRole:
      return alignment(column.look);
    case kLookRole:
      return static_cast<int>(column.look);
    default:
      return {};
  }
}

}  // namespace snapgdb::gui
