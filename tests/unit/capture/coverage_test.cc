#include "core/resource/coverage.h"

#include <catch2/catch.hpp>
#include <set>
#include <string>

#include "core/resource/resources.h"

using namespace snapgdb;

namespace {

using Name = std::pair<Coverage::Of, std::string>;

template <typename Rows>
void add(std::set<Name>& names, Coverage::Of of, const Rows& rows) {
  for (const auto* row : rows) names.emplace(of, row->name);
}

std::set<Name> names_of_rows() {
  std::set<Name> names;
  add(names, Coverage::Of::kProcess, process_resources());
  add(names, Coverage::Of::kThread, thread_resources());
  add(names, Coverage::Of::kDescriptor, descriptor_resources());
  return names;
}

}  // namespace

TEST_CASE("what becomes of every row of the table is said once") {
  std::set<Name> said;
  for (const Coverage& one : coverage()) {
    CAPTURE(one.row);
    CHECK(said.emplace(one.of, one.row).second);
    CHECK_FALSE(one.captured.empty());
  }
  for (const auto& [of, name] : names_of_rows()) {
    CAPTURE(name);
    CHECK(said.contains({of, name}));
  }
}

TEST_CASE("nothing is said of rows that are not there") {
  const std::set<Name> names = names_of_rows();
  for (const Coverage& one : coverage()) {
    CAPTURE(one.row);
    CHECK((one.of == Coverage::Of::kTree || names.contains({one.of, std::string(one.row)})));
  }
}

TEST_CASE("a kind of descriptor that comes back is one that can be restored") {
  for (const Coverage& one : coverage()) {
    if (one.of != Coverage::Of::kDescriptor) continue;
    CAPTURE(one.row);
    CHECK((!one.restored.empty() || !one.lacking.empty()));
  }
}
