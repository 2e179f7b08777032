# Headers that are read once instead of in every file: the schema's alone takes a second and a half,
# the standard library's and fmt's two. A file still includes what it uses: the asan preset builds
# without this (CMAKE_DISABLE_PRECOMPILE_HEADERS), and so shows what is missing.
set(SNAPGDB_PLAIN_HEADERS
  <algorithm> <array> <atomic> <cstdint> <cstring> <expected> <filesystem> <fstream> <functional>
  <map> <memory> <mutex> <optional> <ranges> <set> <span> <sstream> <string> <string_view> <thread>
  <unordered_map> <utility> <vector> <fmt/format.h> <fmt/ranges.h>)
set(SNAPGDB_SCHEMA_HEADERS ${SNAPGDB_PLAIN_HEADERS}
    ${PROJECT_BINARY_DIR}/generated/core/image/snapshot.pb.h)

# snapgdb_precompile(TARGET WHAT HEADER …): the first target with WHAT makes it, the others take it
# from there; they need the same flags of code generation (libraries -fPIC, programs -fPIE).
function(snapgdb_precompile target what)
  get_property(maker GLOBAL PROPERTY snapgdb_precompiled_${what})
  if(maker)
    target_precompile_headers(${target} REUSE_FROM ${maker})
  else()
    target_precompile_headers(${target} PRIVATE ${ARGN})
    set_property(GLOBAL PROPERTY snapgdb_precompiled_${what} ${target})
  endif()
endfunction()
