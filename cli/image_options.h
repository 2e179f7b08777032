#pragma once

#include <CLI/CLI.hpp>

#include "core/image/image_reader.h"
#include "core/image/image_writer.h"

namespace snapgdb::cli {

// How every command that reads an image opens it: --key, --salvage.
void add_open_options(CLI::App& app, OpenOptions& open);
// --key alone.
void add_key_option(CLI::App& app, OpenOptions& open);

// How every command that writes an image writes it: --level, --recipient, --sign. Keys are read
// while the arguments are parsed, before anything is begun.
void add_write_options(CLI::App& app, WriteOptions& write);

}  // namespace snapgdb::cli
