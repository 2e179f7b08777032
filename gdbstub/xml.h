#pragma once

#include <string>
#include <string_view>

namespace snapgdb::gdbstub {

// Text from outside as it may stand in XML, in an element or an attribute. What XML cannot express
// (control characters, bytes that are not UTF-8) becomes \ooo.
std::string xml_text(std::string_view text);

}  // namespace snapgdb::gdbstub
