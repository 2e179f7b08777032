# Every library from outside, once. Packages are listed in packages.txt.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(Protobuf REQUIRED)
find_package(fmt REQUIRED)
find_package(CLI11 REQUIRED)
pkg_check_modules(ZSTD REQUIRED IMPORTED_TARGET libzstd)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(SODIUM REQUIRED IMPORTED_TARGET libsodium)
pkg_check_modules(MNL REQUIRED IMPORTED_TARGET libmnl)
pkg_check_modules(ELF REQUIRED IMPORTED_TARGET libelf)
pkg_check_modules(DW REQUIRED IMPORTED_TARGET libdw)

find_package(LLVM 14 REQUIRED CONFIG)
add_library(snapgdb_llvm INTERFACE)
target_include_directories(snapgdb_llvm SYSTEM INTERFACE ${LLVM_INCLUDE_DIRS})
# Static, and only what is used: relocating the shared library of all of LLVM takes 12 ms of every start.
llvm_map_components_to_libnames(llvm_libraries DebugInfoDWARF Demangle Object Support)
target_link_libraries(snapgdb_llvm INTERFACE ${llvm_libraries})
