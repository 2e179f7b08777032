#pragma once

#include <llvm/Support/JSON.h>

#include <string>
#include <vector>

// What `snapgdb … --json` prints, taken apart.
namespace snapgdb::e2e {

using Json = llvm::json::Value;

// Fails the test if the text is not JSON.
Json parse_json(const std::string& text);
// json_at(value, "snapshot.root_pid"), json_at(value, "processes.0.name"): the value as JSON has
// it, but strings without their quotes; "(nothing)" if there is none.
std::string json_at(const Json& json, const std::string& path);
// The elements of the array at `path`; empty if there is none.
std::vector<const Json*> elements_at(const Json& json, const std::string& path);
// That element of the array at `path` whose member `key` is `value`. Fails the test if none is.
const Json& element_with(const Json& json, const std::string& path, const std::string& key,
                         const std::string& value);

}  // namespace snapgdb::e2e
