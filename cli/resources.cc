#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "cli/command.h"
#include "core/resource/coverage.h"

namespace snapgdb::cli {
namespace {

struct Section {
  Coverage::Of of;
  std::string_view title;
};
constexpr Section kSections[] = {{Coverage::Of::kTree, "What processes share"},
                                 {Coverage::Of::kProcess, "Of each process"},
                                 {Coverage::Of::kThread, "Of each thread"},
                                 {Coverage::Of::kDescriptor, "Of each descriptor, by kind"}};

struct Column {
  std::string_view title;
  std::string_view Coverage::*text;
};
constexpr Column kColumns[] = {{"captured", &Coverage::captured},
                               {"restored", &Coverage::restored},
                               {"not restored", &Coverage::lacking},
                               {"needs", &Coverage::needs}};

std::vector<Coverage> rows_of(const Section& section) {
  std::vector<Coverage> rows;
  std::ranges::copy_if(coverage(), std::back_inserter(rows),
                       [&](const Coverage& one) { return one.of == section.of; });
  return rows;
}

void print_text(const Section& section, const std::vector<Coverage>& rows) {
  fmt::print("{}\n\n", section.title);
  for (const Coverage& one : rows) {
    fmt::print("  {}\n", one.row);
    for (const Column& column : kColumns)
      if (!(one.*column.text).empty())
        fmt::print("    {:<13} {}\n", column.title, one.*column.text);
  }
  fmt::print("\n");
}

constexpr std::string_view kHead =
    "# What is carried\n\n"
    "Made by `snapgdb resources --markdown`. What a snapshot lacks is said when it is taken, and "
    "by\n"
    "`snapgdb show`; what cannot be restored is said before a restore begins\n"
    "([restore.md](restore.md)). An empty cell means: nothing.\n";

void print_markdown(const Section& section, const std::vector<Coverage>& rows) {
  fmt::print("\n## {}\n\n| |", section.title);
  for (const Column& column : kColumns) fmt::print(" {} |", column.title);
  fmt::print("\n|---|---|---|---|---|\n");
  for (const Coverage& one : rows) {
    fmt::print("| **{}** |", one.row);
    for (const Column& column : kColumns) fmt::print(" {} |", one.*column.text);
    fmt::print("\n");
  }
}

int print(bool markdown) {
  if (markdown) fmt::print("{}", kHead);
  for (const Section& section : kSections)
    if (const auto rows = rows_of(section); !rows.empty())
      markdown ? print_markdown(section, rows) : print_text(section, rows);
  return 0;
}

Action define(CLI::App& app) {
  auto markdown = std::make_shared<bool>(false);
  app.add_flag("--markdown", *markdown, "As the page of the documentation");
  return [markdown] { return print(*markdown); };
}

}  // namespace

const Command kResourcesCommand{
    "resources", "Say what a snapshot holds, what of it comes back, and with which rights", define};

}  // namespace snapgdb::cli
