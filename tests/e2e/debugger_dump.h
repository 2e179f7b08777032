#pragma once

#include <map>
#include <string>

#include "tests/e2e/harness.h"

// Everything a debugger says of a process (dump_state.py), made comparable.
namespace snapgdb::e2e {

using Dump = std::map<std::string, std::string>;  // where → what

// A regular expression of the registers that gdb 13 misreads of a live process: it takes every
// processor to lay out its vector registers as those of Intel do. It matches nothing on those.
std::string misread_registers();
// What gdb said without the lines that begin with one of them.
std::string without_misread_registers(const std::string& said);

// Runs gdb with `arguments` (that give it one or more inferiors) and dump_state.py. `manifest` is
// what the target said before "ready".
Dump dump_with_gdb(const Words& arguments, const std::string& manifest, RunOptions options = {});
// The same with another program in gdb's place that takes gdb's arguments (snapgdb debug IMG --).
Dump dump_with(Words command, const std::string& manifest, RunOptions options = {});

// Only the places for which `keep` holds.
Dump only(const Dump& dump, const std::function<bool(const std::string& where)>& keep);
// Checks that both say the same of the same places, and shows where they do not.
void check_agreement(const std::string& name_a, const Dump& a, const std::string& name_b,
                     const Dump& b);
// How many places have `part` in their name: a comparison of nothing proves nothing.
size_t count_places(const Dump& dump, const std::string& part);
std::string first_place_said(const Dump& dump, const std::string& part);

}  // namespace snapgdb::e2e
