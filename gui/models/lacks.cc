#include "gui/models/lacks.h"

#include "gui/models/text.h"

namespace snapgdb::gui {

Lacks lacks_of(const Snapshot& snapshot) {
  Lacks lacks;
  for (const pb::Missing& missing : snapshot.record().missing()) {
    QString& lines = lacks[{missing.pid(), missing.tid()}];
    if (!lines.isEmpty()) lines += QLatin1Char('\n');
    lines +=
        QStringLiteral("Missing: %1: %2").arg(text(missing.resource()), text(missing.reason()));
  }
  return lacks;
}

QString state_with_lacks(const QString& state, const QString& lacks) {
  return lacks.isEmpty() ? state : state + QStringLiteral(", incomplete");
}

}  // namespace snapgdb::gui
