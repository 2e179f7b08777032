#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>

#include "cli/command.h"
#include "cli/image_options.h"
#include "core/base/say.h"
#include "gdbstub/live/launch.h"
#include "gdbstub/serve.h"

namespace snapgdb::cli {
namespace {

struct Arguments {
  std::string image;
  std::string address;
  int32_t pid = 0;
  bool multi = false, once = false, own_streams = false;
  std::string on_detach = "drop";
  OpenOptions open;
};

int serve(const Arguments& arguments) {
  const auto open = [&] { return open_with_image(arguments.image, arguments.open); };
  gdbstub::SessionOptions options;
  if (arguments.pid != 0) options.pid = arguments.pid;
  options.multi = arguments.multi;
  options.launch = arguments.own_streams ? gdbstub::launch_on_our_streams : gdbstub::launch;
  options.let_go = arguments.on_detach == "run";
  if (arguments.address.empty()) return gdbstub::serve_stdio(open, options);
  auto [image, snapshot] = open();
  options.image = std::move(image);
  gdbstub::first_process(*snapshot, options.pid);  // what cannot be shown is said now, not to gdb
  const gdbstub::Listener listener(arguments.address);
  say("snapgdb: listening on {}\n", listener.address());
  do gdbstub::serve_next(snapshot, options, listener);
  while (!arguments.once);
  return static_cast<int>(ExitStatus::kDone);
}

Action define(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  app.add_option("IMG", arguments->image, "the image, or IMG@K for its K-th snapshot")->required();
  add_open_options(app, arguments->open);
  auto* listen = app.add_option(
      "--listen", arguments->address,
      "wait for debuggers at unix:PATH or tcp:HOST:PORT, one after the other, instead of "
      "serving one on standard input and output");
  app.add_flag("--once", arguments->once, "end with the first debugger's connection")
      ->needs(listen);
  app.add_flag("--program-streams", arguments->own_streams,
               "the program that runs has this command's standard streams, instead of the "
               "debugger's console")
      ->needs(listen);
  app.add_option("--on-detach", arguments->on_detach,
                 "what becomes of a program that runs when the debugger detaches [drop]")
      ->check(CLI::IsMember({"drop", "run"}));
  auto* pid = app.add_option("--pid", arguments->pid, "show this process instead of the root");
  app.add_flag("--multi", arguments->multi,
               "show no process until the debugger attaches to one (target extended-remote)")
      ->excludes(pid);
  return [arguments] { return serve(*arguments); };
}

}  // namespace

const Command kServeCommand = {"serve", "Serve a snapshot to gdb or lldb", define};

}  // namespace snapgdb::cli
