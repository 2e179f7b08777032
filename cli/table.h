#pragma once

#include <string>
#include <vector>

namespace snapgdb::cli {

// Columns as wide as what stands in them; the last one runs free.
class Table {
 public:
  // A heading that begins with '>' is right-aligned.
  explicit Table(std::vector<std::string> headings);
  void add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  // Nothing at all if there are no rows.
  void print() const;

 private:
  std::vector<bool> right_;
  std::vector<std::vector<std::string>> rows_;  // the first is the headings
};

}  // namespace snapgdb::cli
