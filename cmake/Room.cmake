# A room is one library of the design, with its own warnings and its own allowed dependencies.
add_library(snapgdb_flags INTERFACE)
target_compile_options(snapgdb_flags INTERFACE -Wall -Wextra -Wshadow -Wnon-virtual-dtor
                       -Woverloaded-virtual -Wcast-qual -Wformat=2 -Wno-missing-field-initializers)
# g++ 12 takes std::string + "…" for a copy out of bounds (GCC bug 105651) unless it sees that the
# code is a system header's, which it does not in precompiled ones.
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(snapgdb_flags INTERFACE -Wno-array-bounds -Wno-restrict)
endif()
if(SNAPGDB_WERROR)
  target_compile_options(snapgdb_flags INTERFACE -Werror)
endif()
if(SNAPGDB_SANITIZE)
  target_compile_options(snapgdb_flags INTERFACE -fsanitize=${SNAPGDB_SANITIZE}
                         -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(snapgdb_flags INTERFACE -fsanitize=${SNAPGDB_SANITIZE})
endif()
if(SNAPGDB_FUZZ)
  target_compile_options(snapgdb_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
target_include_directories(snapgdb_flags INTERFACE ${PROJECT_SOURCE_DIR})

# snapgdb_room(NAME [SCHEMA] SOURCES … LINKS …): a static library whose headers are included as
# "core/…/x.h". SCHEMA: it knows the model, as nearly every file of it does.
function(snapgdb_room name)
  cmake_parse_arguments(room "SCHEMA" "" "SOURCES;LINKS" ${ARGN})
  add_library(${name} STATIC ${room_SOURCES})
  target_link_libraries(${name} PUBLIC snapgdb_flags ${room_LINKS})
  if(room_SCHEMA)
    snapgdb_precompile(${name} schema_library ${SNAPGDB_SCHEMA_HEADERS})
  else()
    snapgdb_precompile(${name} plain_library ${SNAPGDB_PLAIN_HEADERS})
  endif()
endfunction()
