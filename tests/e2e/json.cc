#include "tests/e2e/json.h"

#include <llvm/Support/raw_ostream.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <charconv>
#include <sstream>

namespace snapgdb::e2e {
namespace {

const Json* find(const Json& json, const std::string& path) {
  const Json* at = &json;
  std::istringstream words(path);
  for (std::string word; at && std::getline(words, word, '.');) {
    if (const auto* array = at->getAsArray()) {
      size_t index = 0;
      std::from_chars(word.data(), word.data() + word.size(), index);
      at = index < array->size() ? &(*array)[index] : nullptr;
    } else {
      const auto* object = at->getAsObject();
      at = object ? object->get(word) : nullptr;
    }
  }
  return at;
}

// LLVM 14 reads integers above INT64_MAX as INT64_MAX, so they are made strings.
std::string with_large_numbers_quoted(const std::string& text) {
  constexpr size_t kFits = 18;  // digits
  std::string quoted;
  bool in_string = false;
  for (size_t i = 0; i < text.size();) {
    if (text[i] == '"') in_string = !in_string;
    size_t length = text[i] == '\\' ? 2 : 1;
    if (!in_string) length = std::max(length, text.find_first_not_of("0123456789", i) - i);
    const bool large = !in_string && length > kFits;
    quoted += (large ? "\"" : "") + text.substr(i, length) + (large ? "\"" : "");
    i += length;
  }
  return quoted;
}

}  // namespace

Json parse_json(const std::string& text) {
  auto parsed = llvm::json::parse(with_large_numbers_quoted(text));
  if (!parsed) {
    FAIL("not JSON: " << llvm::toString(parsed.takeError()) << "\n" << text.substr(0, 1000));
  }
  return std::move(*parsed);
}

std::string json_at(const Json& json, const std::string& path) {
  const Json* at = find(json, path);
  if (!at) return "(nothing)";
  if (const auto text = at->getAsString()) return text->str();
  std::string shown;
  llvm::raw_string_ostream(shown) << *at;
  return shown;
}

std::vector<const Json*> elements_at(const Json& json, const std::string& path) {
  std::vector<const Json*> elements;
  const Json* at = find(json, path);
  if (!at || !at->getAsArray()) return elements;
  for (const Json& element : *at->getAsArray()) elements.push_back(&element);
  return elements;
}

const Json& element_with(const Json& json, const std::string& path, const std::string& key,
                         const std::string& value) {
  for (const Json* element : elements_at(json, path)) {
    if (json_at(*element, key) == value) return *element;
  }
  FAIL("nothing at " << path << " has " << key << " " << value);
  return json;
}

}  // namespace snapgdb::e2e
