#include "core/inspect/debug_info.h"

#include <fmt/format.h>
#include <llvm/DebugInfo/DWARF/DWARFContext.h>
#include <llvm/Demangle/Demangle.h>
#include <llvm/Object/Decompressor.h>

#include <filesystem>
#include <map>
#include <optional>

#include "core/base/fd.h"
#include "core/inspect/dwarf_check.h"
#include "core/inspect/elf_file.h"
#include "core/inspect/llvm_elf.h"

namespace snapgdb {
namespace {

// deflate cannot do better (https://zlib.net/zlib_tech.html), so a section that claims to is
// forged.
constexpr uint64_t kBestCompression = 1032;

// The DWARF sections that functions and lines need, by their ELF names.
class Sections final : public llvm::DWARFObject {
 public:
  explicit Sections(llvm::StringRef bytes) {
    const auto elf = value_of(LlvmElf::create(bytes));
    const auto headers = elf ? value_of(elf->sections()) : std::nullopt;
    if (!headers) return;
    for (const auto& header : *headers) add(*elf, header);
  }

  bool isLittleEndian() const override { return true; }
  uint8_t getAddressSize() const override { return 8; }
  llvm::StringRef getFileName() const override { return ""; }
  llvm::Optional<llvm::RelocAddrEntry> find(const llvm::DWARFSection&, uint64_t) const override {
    return llvm::None;  // only relocatable files have any
  }

  void forEachInfoSections(llvm::function_ref<void(const llvm::DWARFSection&)> f) const override {
    if (!info_.Data.empty()) f(info_);
  }
  llvm::StringRef getAbbrevSection() const override { return abbrev_.Data; }
  llvm::StringRef getArangesSection() const override { return aranges_.Data; }
  llvm::StringRef getLineStrSection() const override { return line_str_.Data; }
  llvm::StringRef getStrSection() const override { return str_.Data; }
  const llvm::DWARFSection& getLineSection() const override { return line_; }
  const llvm::DWARFSection& getStrOffsetsSection() const override { return str_offsets_; }
  const llvm::DWARFSection& getRangesSection() const override { return ranges_; }
  const llvm::DWARFSection& getRnglistsSection() const override { return rnglists_; }
  const llvm::DWARFSection& getAddrSection() const override { return addr_; }

 private:
  void add(const LlvmElf& elf, const LlvmElf::Elf_Shdr& header);
  llvm::StringRef decompressed(llvm::StringRef name, llvm::StringRef content);

  llvm::DWARFSection info_, abbrev_, aranges_, line_, line_str_, str_, str_offsets_, ranges_,
      rnglists_, addr_;
  std::vector<std::string> decompressed_;

  using Member = llvm::DWARFSection Sections::*;
  static const std::map<std::string_view, Member> kByName;
};

const std::map<std::string_view, Sections::Member> Sections::kByName = {
    {"info", &Sections::info_},
    {"abbrev", &Sections::abbrev_},
    {"aranges", &Sections::aranges_},
    {"line", &Sections::line_},
    {"line_str", &Sections::line_str_},
    {"str", &Sections::str_},
    {"str_offsets", &Sections::str_offsets_},
    {"ranges", &Sections::ranges_},
    {"rnglists", &Sections::rnglists_},
    {"addr", &Sections::addr_},
};

void Sections::add(const LlvmElf& elf, const LlvmElf::Elf_Shdr& header) {
  const auto name = value_of(elf.getSectionName(header));
  if (!name || header.sh_type == llvm::ELF::SHT_NOBITS) return;
  const bool gnu_style = name->startswith(".zdebug_");
  if (!gnu_style && !name->startswith(".debug_")) return;
  const auto member = kByName.find(std::string_view(name->drop_front(gnu_style ? 8 : 7)));
  const auto content = value_of(elf.getSectionContents(header));
  if (member == kByName.end() || !content) return;
  const llvm::StringRef bytes(reinterpret_cast<const char*>(content->data()), content->size());
  const bool compressed = gnu_style || (header.sh_flags & llvm::ELF::SHF_COMPRESSED);
  (this->*member->second).Data = compressed ? decompressed(*name, bytes) : bytes;
}

llvm::StringRef Sections::decompressed(llvm::StringRef name, llvm::StringRef content) {
  auto decompressor =
      value_of(llvm::object::Decompressor::create(name, content, /*IsLE=*/true, /*Is64Bit=*/true));
  if (!decompressor || decompressor->getDecompressedSize() / kBestCompression > content.size())
    return "";
  std::string bytes(decompressor->getDecompressedSize(), '\0');
  if (llvm::Error error = decompressor->decompress({bytes.data(), bytes.size()})) {
    llvm::consumeError(std::move(error));
    return "";
  }
  return decompressed_.emplace_back(std::move(bytes));
}

// Before LLVM opens the .dwo files that a skeleton names, it asks a .dwp package for them. One that
// is empty, but can be opened, keeps it from ever looking at the paths.
const std::string& path_of_empty_package() {
  static const Fd kPackage = memory_file("empty.dwp", empty_elf(llvm::ELF::ET_REL));
  static const std::string kPath = "/proc/self/fd/" + std::to_string(kPackage.get());
  return kPath;
}

std::string known(const std::string& text) {
  return text == llvm::DILineInfo::BadString ? "" : text;
}

// Where the compiler's own directory is relative, LLVM puts it before itself: "./io/./io/read.c".
// Then "./io/../sysdeps/read.c", as the compiler saw it, is "sysdeps/read.c".
std::string tidy_path(std::string path, llvm::DWARFUnit& unit) {
  const char* directory = unit.getCompilationDir();
  const std::string prefix = directory ? fmt::format("{}/", directory) : "";
  if (!prefix.starts_with('/') && path.starts_with(prefix + prefix)) path.erase(0, prefix.size());
  return std::filesystem::path(path).lexically_normal().string();
}

// ---- Names that DWARF has only in pieces -----------------------------------------------------

constexpr int kMaxScopes = 64;

// The entry that stands where the function was declared.
llvm::DWARFDie declaration_of(llvm::DWARFDie die) {
  using namespace llvm::dwarf;
  for (int i = 0; i < kMaxScopes; ++i) {
    auto next = die.getAttributeValueAsReferencedDie(DW_AT_abstract_origin);
    if (!next) next = die.getAttributeValueAsReferencedDie(DW_AT_specification);
    if (!next) return die;
    die = next;
  }
  return die;
}

// What a scope adds to the names within it.
std::string scope_prefix(const llvm::DWARFDie& scope) {
  using namespace llvm::dwarf;
  static const std::map<Tag, const char*> kWithoutName = {
      {DW_TAG_namespace, "(anonymous namespace)"},
      {DW_TAG_class_type, "(anonymous class)"},
      {DW_TAG_structure_type, "(anonymous struct)"},
      {DW_TAG_union_type, "(anonymous union)"}};
  const char* name = scope.getShortName();
  if (scope.getTag() == DW_TAG_subprogram) return name ? fmt::format("{}()::", name) : "";
  const auto kind = kWithoutName.find(scope.getTag());
  return kind == kWithoutName.end() ? "" : fmt::format("{}::", name ? name : kind->second);
}

std::string with_scopes(std::string name, const llvm::DWARFDie& function) {
  llvm::DWARFDie scope = declaration_of(function).getParent();
  for (int i = 0; scope && i < kMaxScopes; ++i) {
    name = scope_prefix(scope) + name;
    if (scope.isSubprogramDIE()) scope = declaration_of(scope);
    scope = scope.getParent();
  }
  return name;
}

SourceFrame to_frame(const llvm::DILineInfo& info, const llvm::DWARFDie& function,
                     llvm::DWARFUnit& unit) {
  SourceFrame frame{
      .file = tidy_path(known(info.FileName), unit), .line = info.Line, .column = info.Column};
  // Functions that no other translation unit sees ("static", in an anonymous namespace, taking a
  // lambda) have no linkage name that could be made readable.
  const std::string name = known(info.FunctionName);
  frame.without_parameters = !name.empty() && function && !function.getLinkageName();
  frame.function = frame.without_parameters ? with_scopes(name, function) : demangled(name);
  return frame;
}

void ignore(llvm::Error error) {
  llvm::consumeError(std::move(error));
}

}  // namespace

class DebugInfo::Context : public llvm::DWARFContext {
 public:
  explicit Context(std::unique_ptr<const Sections> sections)
      : DWARFContext(std::move(sections), path_of_empty_package(), ignore, ignore) {}

  // The unit that holds an address, if LLVM can be asked about it.
  llvm::DWARFCompileUnit* readable_unit(uint64_t address) {
    llvm::DWARFCompileUnit* unit = getCompileUnitForAddress(address);
    if (!unit) return nullptr;
    const auto [known, is_new] = walkable_.try_emplace(unit);
    if (is_new) known->second = is_walkable(*unit);
    return known->second ? unit : nullptr;
  }

 private:
  std::map<const llvm::DWARFUnit*, bool> walkable_;
};

DebugInfo::DebugInfo(std::string_view elf)
    : context_(std::make_unique<Context>(
          std::make_unique<Sections>(llvm::StringRef(elf.data(), elf.size())))) {
  if (!has_known_forms(*context_)) context_.reset();
}

DebugInfo::~DebugInfo() = default;

std::vector<SourceFrame> DebugInfo::frames_at(uint64_t address) {
  std::vector<SourceFrame> frames;
  llvm::DWARFCompileUnit* unit = context_ ? context_->readable_unit(address) : nullptr;
  if (!unit) return frames;
  using Specifier = llvm::DILineInfoSpecifier;
  const llvm::DIInliningInfo info = context_->getInliningInfoForAddress(
      {address, llvm::object::SectionedAddress::UndefSection},
      Specifier(Specifier::FileLineInfoKind::AbsoluteFilePath, llvm::DINameKind::LinkageName));
  llvm::SmallVector<llvm::DWARFDie, 4> functions;  // the same frames, as entries of the unit
  unit->getInlinedChainForAddress(address, functions);
  functions.resize(std::max<size_t>(functions.size(), info.getNumberOfFrames()));
  for (uint32_t i = 0; i < info.getNumberOfFrames(); ++i)
    frames.push_back(to_frame(info.getFrame(i), functions[i], *unit));
  return frames;
}

std::string demangled(std::string_view linkage_name) {
  return llvm::demangle(std::string(linkage_name));
}

}  // namespace snapgdb
