#pragma once

#include <QString>

#include <string_view>

#include "core/image/snapshot.pb.h"

namespace snapgdb::gui {

// Text from a captured process, made harmless and not too long to be laid out as one line.
QString text(std::string_view bytes);
// Text that is harmless already (core/inspect/words.h), made not too long.
QString line(std::string_view harmless);
// The arguments with blanks between them; "" if there are none.
QString command_line(const pb::Process& process);
// "0x7f12a4000000"
QString address(uint64_t value);
// "1.5 MiB"; nothing for 0, since a table full of "0 B" hides what is there.
QString size(uint64_t bytes);
// "1,572,864 bytes"
QString exact_size(uint64_t bytes);
// "1.24 ms"
QString duration(uint64_t nanoseconds);
// "3 threads", "1 thread"
QString counted(uint64_t number, const char* singular, const char* plural);
// "SIGSEGV"; "" for 0.
QString signal_name(uint32_t number);
// "SIGINT SIGTERM": bit N-1 stands for signal N.
QString signal_set(uint64_t bits);
// The letter of /proc/PID/stat as a word: "S" is "sleeping".
QString state_word(std::string_view letter);
// How a zombie ended, from its wait status: "exit status 3", "killed by SIGKILL".
QString exit_text(int32_t wait_status);

}  // namespace snapgdb::gui
