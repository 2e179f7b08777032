#include <CLI/CLI.hpp>
#include <QApplication>
#include <QFile>
#include <QTimer>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "core/base/error.h"
#include "core/base/strings.h"
#include "core/image/image_reader.h"
#include "gui/views/main_window.h"

namespace snapgdb::gui {
namespace {

constexpr char kName[] = "snapgdb-gui";

struct Arguments {
  std::string image;
  std::string screenshot;
  QSize size;
  OpenOptions open;
  std::string tab;
  int32_t pid = 0;
  int32_t tid = 0;
};

// "1280x800", in pixels.
QSize parse_size(const std::string& text) {
  const size_t by = std::min(text.find('x'), text.size());
  const auto width = parse_number<int>(text.substr(0, by));
  const auto height = parse_number<int>(text.substr(std::min(by + 1, text.size())));
  const auto sensible = [](std::optional<int> length) {
    return length && *length >= 1 && *length <= 10000;
  };
  if (!sensible(width) || !sensible(height))
    throw CLI::ValidationError("--size", text + " is not a size like 1280x800");
  return QSize(*width, *height);
}

void define(CLI::App& app, Arguments& arguments) {
  std::vector<std::string> tabs;
  for (const QString& tab : MainWindow::tab_names()) tabs.push_back(tab.toStdString());
  auto* image =
      app.add_option("IMG", arguments.image, "The image; IMG@K is the K-th snapshot in it");
  app.add_option("--screenshot", arguments.screenshot, "Save a picture of the window, and end")
      ->type_name("FILE.png")
      ->needs(image);
  app.add_option_function<std::string>(
         "--size", [&](const std::string& text) { arguments.size = parse_size(text); },
         "Size of the window")
      ->type_name("WxH");
  app.add_option("--tab", arguments.tab, "What to show first")->check(CLI::IsMember(tabs));
  app.add_option("--process", arguments.pid, "Process to select")
      ->type_name("PID")
      ->check(CLI::PositiveNumber);
  app.add_option("--thread", arguments.tid, "Thread to select")
      ->type_name("TID")
      ->check(CLI::PositiveNumber);
  app.add_option("--key", arguments.open.key_file,
                 "Secret key that opens an encrypted image [$SNAPGDB_KEY]")
      ->type_name("FILE");
  app.add_flag("--salvage", arguments.open.salvage,
               "Read what is whole in a damaged or cut-off image");
}

// Qt aborts the program where it finds no display; this says what to do instead. A picture is taken
// without one.
void choose_display(bool for_screenshot) {
  const auto is_set = [](const char* name) { return !qEnvironmentVariableIsEmpty(name); };
  if (is_set("DISPLAY") || is_set("WAYLAND_DISPLAY") || is_set("QT_QPA_PLATFORM")) return;
  if (!for_screenshot)
    throw Error("cannot open a window", "DISPLAY and WAYLAND_DISPLAY are empty",
                "use ssh -X, or see the same as text with snapgdb show");
  qputenv("QT_QPA_PLATFORM", "offscreen");
}

// Qt remarks on the desktop it runs on; that is nothing to someone who wants a picture.
void drop_remarks(QtMsgType type, const QMessageLogContext&, const QString& message) {
  if (type == QtCriticalMsg || type == QtFatalMsg)
    std::fprintf(stderr, "%s: %s\n", kName, qPrintable(message));
}

int report(const std::string& line, ExitStatus status) {
  std::fprintf(stderr, "%s: %s\n", kName, line.c_str());
  return static_cast<int>(status);
}

int take_screenshot(MainWindow& window, const std::string& file) {
  if (!window.error().isEmpty()) return report(window.error().toStdString(), ExitStatus::kFailed);
  if (window.grab().save(QFile::decodeName(file.c_str()))) return 0;
  return report("cannot save the screenshot " + file +
                    ": the file cannot be written, or its name does not end in .png",
                ExitStatus::kFailed);
}

// Ends the event loop with a screenshot taken, or the reason why not on stderr.
void screenshot_when_settled(MainWindow& window, const std::string& file) {
  QObject::connect(&window, &MainWindow::settled, &window, [&window, file] {
    // One turn of the event loop later what has just arrived is laid out.
    QTimer::singleShot(0, &window,
                       [&window, file] { QApplication::exit(take_screenshot(window, file)); });
  });
}

int run(const Arguments& arguments) {
  Services services;
  services.open = [options = arguments.open](const std::string& name) {
    return open_with_image(name, options);
  };
  MainWindow window(std::move(services),
                    {QString::fromStdString(arguments.tab), arguments.pid, arguments.tid});
  if (arguments.size.isValid()) window.resize(arguments.size);
  if (!arguments.screenshot.empty()) screenshot_when_settled(window, arguments.screenshot);
  window.show();
  if (!arguments.image.empty()) window.open(QFile::decodeName(arguments.image.c_str()));
  return QApplication::exec();
}

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Shows what an image of snapgdb holds: processes, threads, memory, descriptors.",
               kName);
  define(app, arguments);
  try {
    app.parse(argc, argv);
    choose_display(!arguments.screenshot.empty());
    if (!arguments.screenshot.empty()) qInstallMessageHandler(drop_remarks);
    int qt_argc = 1;  // the arguments are ours; Qt's own can be given in its environment variables
    QApplication application(qt_argc, argv);
    QApplication::setApplicationName(QString::fromLatin1(kName));
    const int status = run(arguments);
    // A job cannot be interrupted, and may wait for ever for a pipe that says nothing; it only
    // reads.
    if (background_threads().activeThreadCount() > 0) std::_Exit(status);
    return status;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    return report(std::string(error.what()) + " (snapgdb-gui --help tells how to use it)",
                  ExitStatus::kUsage);
  } catch (const Error& error) {
    return report(error.what(), error.status());
  } catch (const std::exception& error) {
    return report(error.what(), ExitStatus::kFailed);
  }
}

}  // namespace
}  // namespace snapgdb::gui

int main(int argc, char** argv) {
  return snapgdb::gui::main(argc, argv);
}
