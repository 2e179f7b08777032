# A room is one library of the design, with its own warnings and its own allowed dependencies.
add_library(snapgdb_flags INTERFACE)
target_compile_options(snapgdb_flags INTERFACE -Wall -Wextra -Wshadow -Wnon-virtual-dtor
                       -Woverloaded-virtual -Wcast-qual -Wformat=2 -Wno-missing-field-initializers)
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

# snapgdb_room(NAME SOURCES … LINKS …): a static library whose headers are included as "core/…/x.h".
function(snapgdb_room name)
  cmake_parse_arguments(room "" "" "SOURCES;LINKS" ${ARGN})
  add_library(${name} STATIC ${room_SOURCES})
  target_link_libraries(${name} PUBLIC snapgdb_flags ${room_LINKS})
endfunction()
