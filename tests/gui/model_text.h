#pragma once

#include <QAbstractItemModel>
#include <QStringList>

#include <ostream>

// Catch2 prints what it compares.
inline std::ostream& operator<<(std::ostream& out, const QString& text) {
  return out << text.toStdString();
}

namespace snapgdb::gui {

// A model as text, so that a test can show what it expects: a line a row, children indented, cells
// separated by " | ".
inline QString as_text(const QAbstractItemModel& model, const QList<int>& columns,
                       const QModelIndex& parent = {}, int depth = 0) {
  QString lines;
  for (int row = 0; row < model.rowCount(parent); ++row) {
    QStringList cells;
    for (const int column : columns) cells += model.index(row, column, parent).data().toString();
    lines += QString(depth * 2, QLatin1Char(' ')) + cells.join(QStringLiteral(" | ")) +
             QLatin1Char('\n');
    lines += as_text(model, columns, model.index(row, 0, parent), depth + 1);
  }
  return lines;
}

inline QString cell_text(const QAbstractItemModel& model, int row, int column,
                         int role = Qt::DisplayRole) {
  return model.index(row, column).data(role).toString();
}

}  // namespace snapgdb::gui
