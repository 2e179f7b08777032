#pragma once

#include <QString>

#include <vector>

#include "core/image/snapshot.h"

namespace snapgdb::gui {

// One line of a summary: "Paused for", "1.24 ms", with an explanation.
struct Fact {
  QString name;
  QString value;
  QString explanation;
};

// When, where, why and how the snapshot was taken. Facts that are not known are left out.
std::vector<Fact> snapshot_facts(const Snapshot& snapshot);
// Who a process is: its program, its place in the system, its rights.
std::vector<Fact> process_facts(const pb::Process& process);

// "python3 server.py": the root's command line, for a title.
QString program_title(const Snapshot& snapshot);
// "8 processes, 23 threads", for a status bar.
QString tree_size(const Snapshot& snapshot);

}  // namespace snapgdb::gui
