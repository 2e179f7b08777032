#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>

#include <QApplication>

int main(int argc, char** argv) {
  if (qEnvironmentVariableIsEmpty("QT_QPA_PLATFORM")) qputenv("QT_QPA_PLATFORM", "offscreen");
  int qt_argc = 1;  // Catch2 has the arguments, Qt only needs a name
  QApplication application(qt_argc, argv);
  return Catch::Session().run(argc, argv);
}
