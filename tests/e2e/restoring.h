#pragma once

#include "tests/e2e/harness.h"

// What tests of restoring share.
namespace snapgdb::e2e {

bool exists(pid_t pid);
// A process and all below it.
std::vector<pid_t> tree_of(pid_t root);
// Orphans of a test become its children.
void await_end(pid_t pid);
// Captures and kills; the tree's numbers are free again afterwards.
void take_away(Running& program, const std::string& image);
// Runs the tree to its end, which comes when its standard input ends.
Result run_again(const std::string& image, const Words& options = {}, RunOptions run = {});

}  // namespace snapgdb::e2e
