#pragma once

#include <exception>
#include <string>

// Where commands write to.
namespace snapgdb::cli {

// From now on, a reader that goes away, or a limit on the size of files, is an error like any
// other, instead of a signal that ends us.
void take_failed_writes_for_errors();

// Throws Error (kUsage) if `output` is a terminal, which can do nothing with an image; or, unless
// `may_be_ours`, our own standard output, whatever it is called.
void refuse_streams(const std::string& output, bool may_be_ours);

// Throws Error if it is known now that a file cannot be written there. Creates nothing.
void check_can_be_written(const std::string& output);

// Throws Error if not all that we had to say could be written to standard output.
void finish_output();

// What to tell of an error: what() in words of ours, made harmless for a terminal.
std::string words_for(const std::exception& error);

}  // namespace snapgdb::cli
