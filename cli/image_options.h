#pragma once

#include <CLI/CLI.hpp>

#include "core/image/image_reader.h"
#include "core/image/image_writer.h"
#include "core/resource/memory.h"

namespace snapgdb::cli {

// How every command that reads an image opens it: --key, --salvage.
void add_open_options(CLI::App& app, OpenOptions& open);
// Says what a salvaged image has lost. Returns the exit status: 3 if there is something.
int report_lost(const Snapshot& snapshot, const std::string& image);
// --key alone.
void add_key_option(CLI::App& app, OpenOptions& open);

// Of an option that names something: an unset variable of a script's is a mistake.
std::string why_not_named(const std::string& name);

// How every command that writes an image writes it: --level, --recipient, --sign. Keys are read
// while the arguments are parsed, before anything is begun.
void add_write_options(CLI::App& app, WriteOptions& write);
// --all-memory
void add_memory_options(CLI::App& app, MemoryOptions& memory);

}  // namespace snapgdb::cli
