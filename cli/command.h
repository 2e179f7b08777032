#pragma once

#include <CLI/CLI.hpp>

#include <functional>
#include <span>

namespace snapgdb::cli {

// Runs a command whose arguments were parsed; returns the exit status. Throws Error for a failure.
using Action = std::function<int()>;

// One verb. Each stands in a file of its own, its help beside its code, and is listed in main.cc.
struct Command {
  const char* name;
  const char* help;
  // Declares arguments on `app`; the returned action is called if this verb was used. What the
  // arguments are parsed into must live as long as the action (a shared_ptr it captures).
  Action (*define)(CLI::App& app);
};

extern const Command kBacktraceCommand;
extern const Command kCaptureCommand;
extern const Command kCoreCommand;
extern const Command kDebugCommand;
extern const Command kDoctorCommand;
extern const Command kGuiCommand;
extern const Command kKeygenCommand;
extern const Command kResourcesCommand;
extern const Command kRestoreCommand;
extern const Command kRunCommand;
extern const Command kServeCommand;
extern const Command kShowCommand;
extern const Command kVerifyCommand;

}  // namespace snapgdb::cli
