#include "gdbstub/xml.h"

#include "core/base/strings.h"

namespace snapgdb::gdbstub {
namespace {

std::string_view entity(char c) {
  switch (c) {
    case '&':
      return "&amp;";
    case '<':
      return "&lt;";
    case '>':
      return "&gt;";
    case '"':
      return "&quot;";
    case '\'':
      return "&apos;";
    default:
      return "";
  }
}

// printable() doubles backslashes, which would turn one path into another.
std::string expressible(std::string_view text) {
  std::string out;
  while (true) {
    const size_t backslash = text.find('\\');
    out += printable(text.substr(0, backslash));
    if (backslash == std::string_view::npos) return out;
    out += '\\';
    text.remove_prefix(backslash + 1);
  }
}

}  // namespace

std::string xml_text(std::string_view text) {
  std::string out;
  for (const char c : expressible(text))
    if (const std::string_view escaped = entity(c); !escaped.empty())
      out += escaped;
    else
      out += c;
  return out;
}

}  // namespace snapgdb::gdbstub
