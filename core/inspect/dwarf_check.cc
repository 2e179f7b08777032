#include "core/inspect/dwarf_check.h"

#include <algorithm>
#include <set>
#include <vector>

namespace snapgdb {
namespace {

using namespace llvm::dwarf;

constexpr int kMaxNesting = 500;  // scopes of a program stay below 100

// DWARF 5, section 7.5.6, without DW_FORM_addrx3, which LLVM does not read, and DW_FORM_indirect,
// which no compiler writes and behind which any other may hide.
bool is_known(Form form) {
  const bool standard = form >= DW_FORM_addr && form <= DW_FORM_addrx4;
  const bool by_gnu = form == DW_FORM_GNU_addr_index || form == DW_FORM_GNU_str_index ||
                      form == DW_FORM_GNU_ref_alt || form == DW_FORM_GNU_strp_alt;
  return by_gnu || (standard && form != 0x02 && form != DW_FORM_addrx3 && form != DW_FORM_indirect);
}

bool has_known_forms(const llvm::DWARFAbbreviationDeclarationSet& declarations) {
  return std::ranges::all_of(declarations, [](const auto& declaration) {
    return std::ranges::all_of(declaration.attributes(),
                               [](const auto& attribute) { return is_known(attribute.Form); });
  });
}

// The header of a line table, from version 5 on (DWARF 5, section 6.2.4).
class LineHeader {
 public:
  LineHeader(llvm::StringRef section, uint64_t offset)
      : lines_(section, /*IsLittleEndian=*/true, /*AddressSize=*/8), at_(offset) {}
  ~LineHeader() { llvm::consumeError(at_.takeError()); }

  // Whether it is free of what LLVM stumbles over; it may well be cut off.
  bool is_sane() {
    const uint64_t length = lines_.getU32(at_);
    if (length == DW_LENGTH_DWARF64) {
      format_.Format = DWARF64;
      lines_.getU64(at_);
    }
    format_.Version = lines_.getU16(at_);
    if (!at_ || format_.Version < 5) return true;  // forms came with version 5
    format_.AddrSize = lines_.getU8(at_);
    lines_.skip(at_, 1);                                        // seg_select_size
    lines_.getUnsigned(at_, format_.getDwarfOffsetByteSize());  // header_length
    lines_.skip(at_, 5);  // from minimum_instruction_length to line_range
    const uint8_t opcode_base = lines_.getU8(at_);
    if (opcode_base) lines_.skip(at_, opcode_base - 1u);
    return format_.AddrSize == 8 && skip_table() && skip_table();
  }

 private:
  // Directories or files: a list of forms, then entries, each with a value of each form.
  bool skip_table() {
    std::vector<Form> forms(lines_.getU8(at_));
    for (Form& form : forms) {
      lines_.getULEB128(at_);  // what it means
      const uint64_t number = lines_.getULEB128(at_);
      form = static_cast<Form>(number);
      if (number > UINT16_MAX || !has_bytes(form)) return false;
    }
    const uint64_t entries = lines_.getULEB128(at_);
    if (entries && forms.empty()) return false;
    uint64_t offset = at_.tell();
    for (uint64_t i = 0; i < entries && at_ && lines_.isValidOffset(offset); ++i)
      for (const Form form : forms)
        if (!llvm::DWARFFormValue::skipValue(form, lines_, &offset, format_)) return false;
    lines_.skip(at_, offset - at_.tell());
    return static_cast<bool>(at_);
  }

  // Forms whose values stand in no byte of the table would let it have any number of entries.
  static bool has_bytes(Form form) {
    return is_known(form) && form != DW_FORM_implicit_const && form != DW_FORM_flag_present;
  }

  llvm::DataExtractor lines_;
  llvm::DataExtractor::Cursor at_;
  FormParams format_{0, 0, DWARF32};
};

// Whether the first `most` entries of a unit end within it. LLVM adds the lengths that blocks claim
// to its position without a look at where that leads, and goes on reading there.
bool ends_inside(llvm::DWARFUnit& unit, size_t most) {
  const auto* declarations = unit.getAbbreviations();
  if (!declarations) return false;
  const llvm::DWARFDataExtractor data = unit.getDebugInfoExtractor();
  const uint64_t end = unit.getNextUnitOffset();
  uint64_t at = unit.getOffset() + unit.getHeaderSize();
  for (size_t i = 0; i < most && at < end; ++i) {
    const uint64_t entry = at;
    const uint64_t code = data.getULEB128(&at);
    if (at == entry) return false;  // the number does not end
    const auto* declaration =
        code > UINT32_MAX ? nullptr
                          : declarations->getAbbreviationDeclaration(static_cast<uint32_t>(code));
    if (code == 0) continue;
    if (!declaration) return true;  // LLVM stops here, too
    for (const auto& attribute : declaration->attributes()) {
      if (attribute.isImplicitConst()) continue;
      const uint64_t start = at;
      if (!llvm::DWARFFormValue::skipValue(attribute.Form, data, &at, unit.getFormParams()))
        return false;
      if (at < start || at > end) return false;
    }
  }
  return at <= end;
}

bool has_sane_lines(llvm::DWARFContext& context, llvm::DWARFUnit& unit) {
  if (!ends_inside(unit, 1)) return false;
  const auto offset = toSectionOffset(unit.getUnitDIE().find(DW_AT_stmt_list));
  return !offset || LineHeader(context.getDWARFObj().getLineSection().Data, *offset).is_sane();
}

}  // namespace

bool has_known_forms(llvm::DWARFContext& context) {
  std::set<const llvm::DWARFAbbreviationDeclarationSet*> checked;
  return std::ranges::all_of(context.info_section_units(), [&](const auto& unit) {
    const auto* declarations = unit->getAbbreviations();
    if (declarations && checked.insert(declarations).second && !has_known_forms(*declarations))
      return false;
    return !declarations || has_sane_lines(context, *unit);
  });
}

bool is_walkable(llvm::DWARFUnit& unit) {
  if (!ends_inside(unit, SIZE_MAX) || !unit.getUnitDIE(/*ExtractUnitDIEOnly=*/false)) return false;
  int depth = 0;
  for (unsigned i = 0; i < unit.getNumDIEs() && depth <= kMaxNesting; ++i) {
    const llvm::DWARFDie entry = unit.getDIEAtIndex(i);
    depth += entry.isNULL() ? -1 : entry.hasChildren();
  }
  return depth <= kMaxNesting;
}

}  // namespace snapgdb
