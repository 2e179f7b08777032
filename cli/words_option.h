#pragma once

#include <CLI/CLI.hpp>

#include <string>
#include <vector>

namespace snapgdb::cli {

// Words that are handed on to another program, each exactly as it is.
CLI::Option* add_words(CLI::App& app, const std::string& name, std::vector<std::string>& words,
                       const std::string& help);

}  // namespace snapgdb::cli
