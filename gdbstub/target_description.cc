#include "gdbstub/target_description.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <optional>

namespace snapgdb::gdbstub {
namespace {

struct Field {
  std::string_view name;
  int bit;
};

// Bits of EFLAGS and MXCSR, Intel SDM volume 1, 3.4.3 and 10.2.3.
constexpr Field kEflags[] = {{"CF", 0},   {"", 1},    {"PF", 2},  {"AF", 4},  {"ZF", 6},
                             {"SF", 7},   {"TF", 8},  {"IF", 9},  {"DF", 10}, {"OF", 11},
                             {"NT", 14},  {"RF", 16}, {"VM", 17}, {"AC", 18}, {"VIF", 19},
                             {"VIP", 20}, {"ID", 21}};
constexpr Field kMxcsr[] = {{"IE", 0},  {"DE", 1},  {"ZE", 2},  {"OE", 3}, {"UE", 4},
                            {"PE", 5},  {"DAZ", 6}, {"IM", 7},  {"DM", 8}, {"ZM", 9},
                            {"OM", 10}, {"UM", 11}, {"PM", 12}, {"FZ", 15}};

std::string flags(std::string_view id, std::span<const Field> fields) {
  std::string out = fmt::format("<flags id=\"{}\" size=\"4\">", id);
  for (const Field& field : fields)
    out += fmt::format(R"(<field name="{0}" start="{1}" end="{1}"/>)", field.name, field.bit);
  return out + "</flags>";
}

struct Lane {
  std::string_view name, type;
  int count;
};

// How one may look at an XMM register: $xmm0.v4_float and so on.
constexpr Lane kLanes[] = {{"v8_bfloat16", "bfloat16", 8}, {"v8_half", "ieee_half", 8},
                           {"v4_float", "ieee_single", 4}, {"v2_double", "ieee_double", 2},
                           {"v16_int8", "int8", 16},       {"v8_int16", "int16", 8},
                           {"v4_int32", "int32", 4},       {"v2_int64", "int64", 2}};

std::string vec128() {
  std::string vectors, fields;
  for (const Lane& lane : kLanes) {
    vectors += fmt::format(R"(<vector id="{}_t" type="{}" count="{}"/>)", lane.name, lane.type,
                           lane.count);
    fields += fmt::format(R"(<field name="{0}" type="{0}_t"/>)", lane.name);
  }
  return vectors + R"(<union id="vec128">)" + fields +
         R"(<field name="uint128" type="uint128"/></union>)";
}

// Types are known only within the feature that defines them.
struct FeatureTypes {
  std::string_view feature;
  std::string (*types)();
};

constexpr FeatureTypes kTypes[] = {
    {"org.gnu.gdb.i386.core", [] { return flags("i386_eflags", kEflags); }},
    {"org.gnu.gdb.i386.sse", [] { return vec128() + flags("i386_mxcsr", kMxcsr); }},
    {"org.gnu.gdb.i386.avx512",
     [] { return vec128() + R"(<vector id="v2ui128" type="uint128" count="2"/>)"; }},
};

// Without a number, a register has the one that follows that of the register before it.
std::string describe(const Register& described, std::optional<size_t> number) {
  std::string more;
  if (!described.group.empty()) more += fmt::format(R"( group="{}")", described.group);
  if (number) more += fmt::format(R"( regnum="{}")", *number);
  return fmt::format(R"(<reg name="{}" bitsize="{}" type="{}"{}/>)", described.name, described.bits,
                     described.type, more);
}

std::string describe(const RegisterLayout& layout, const RegisterFeature& feature,
                     size_t& expected) {
  std::string out = fmt::format("<feature name=\"{}\">\n", feature.name);
  const auto* types = std::ranges::find(kTypes, feature.name, &FeatureTypes::feature);
  if (types != std::end(kTypes)) out += types->types() + "\n";
  for (const size_t number : feature.numbers) {
    const bool follows = number == expected;
    out += describe(layout.registers()[number], follows ? std::nullopt : std::optional(number));
    out += "\n";
    expected = number + 1;
  }
  return out + "</feature>\n";
}

}  // namespace

std::string target_description(const RegisterLayout& layout) {
  std::string out =
      "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n"
      "<target version=\"1.0\">\n<architecture>i386:x86-64</architecture>\n"
      "<osabi>GNU/Linux</osabi>\n";
  size_t expected = 0;
  for (const RegisterFeature& feature : layout.features())
    out += describe(layout, feature, expected);
  return out + "</target>\n";
}

}  // namespace snapgdb::gdbstub
