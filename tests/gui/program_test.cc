// The programs as a user starts them: snapgdb-gui, and snapgdb gui, which becomes it.
#include <catch2/catch.hpp>

#include <QFile>
#include <QImage>
#include <QProcess>
#include <QTemporaryDir>

#include "tests/gui/model_text.h"

namespace {

struct Run {
  int status;
  QString out;
  QString err;
};

Run run(const QString& program, const QStringList& arguments) {
  QProcess process;
  QProcessEnvironment environment = QProcessEnvironment::systemEnvironment();
  for (const char* name : {"DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"})
    environment.remove(QString::fromLatin1(name));
  process.setProcessEnvironment(environment);
  process.start(program, arguments);
  REQUIRE(process.waitForFinished(120'000));
  REQUIRE(process.exitStatus() == QProcess::NormalExit);
  return {process.exitCode(), QString::fromUtf8(process.readAllStandardOutput()),
          QString::fromUtf8(process.readAllStandardError())};
}

Run gui(const QStringList& arguments) {
  return run(QStringLiteral(SNAPGDB_GUI_PROGRAM), arguments);
}

// An image of a real process, made by snapgdb.
struct CapturedSleep {
  CapturedSleep() {
    QProcess sleep;
    sleep.start(QStringLiteral("sleep"), {QStringLiteral("60")});
    REQUIRE(sleep.waitForStarted());
    const Run capture = run(QStringLiteral(SNAPGDB_PROGRAM),
                            {"capture", QString::number(sleep.processId()), "-o", image});
    INFO(capture.err.toStdString());
    CHECK(capture.status == 0);
    pid = sleep.processId();
    sleep.kill();
    sleep.waitForFinished();
  }

  QTemporaryDir directory;
  QString image = directory.filePath("sleep.snapgdb");
  QString picture = directory.filePath("picture.png");
  qint64 pid = 0;
};

}  // namespace

TEST_CASE("a picture of a captured process can be taken without a display") {
  const CapturedSleep captured;
  const Run taken = gui({captured.image, "--screenshot", captured.picture, "--size", "900x600"});
  CHECK(taken.err == "");
  CHECK(taken.status == 0);
  const QImage picture(captured.picture);
  CHECK(picture.size() == QSize(900, 600));

  const QString other = captured.directory.filePath("other.png");
  const QString pid = QString::number(captured.pid);
  CHECK(gui({captured.image, "--screenshot", other, "--size", "900x600", "--tab", "maps",
             "--process", pid, "--thread", pid})
            .status == 0);
  CHECK(QImage(other) != picture);  // another tab looks different
}

TEST_CASE("snapgdb gui hands its arguments to the GUI program") {
  const CapturedSleep captured;
  const Run taken = run(QStringLiteral(SNAPGDB_PROGRAM),
                        {"gui", captured.image, "--tab", "fds", "--screenshot", captured.picture});
  CHECK(taken.err == "");
  CHECK(taken.status == 0);
  CHECK_FALSE(QImage(captured.picture).isNull());
}

TEST_CASE("whatever is wrong is one line on stderr") {
  QTemporaryDir directory;
  QFile text(directory.filePath("text.snapgdb"));
  REQUIRE(text.open(QIODevice::WriteOnly));
  text.write(QByteArray(5000, 'x'));
  text.close();
  const QString picture = directory.filePath("p.png");

  struct Case {
    QStringList arguments;
    int status;
    QString contains;
  };
  const std::vector<Case> cases{
      {{text.fileName(), "--screenshot", picture}, 1, "not a snapgdb image"},
      {{directory.filePath("none"), "--screenshot", picture}, 1, "No such file or directory"},
      {{directory.path(), "--screenshot", picture}, 1, "Is a directory"},
      {{text.fileName()}, 1, "cannot open a window"},
  };
  for (const Case& wrong : cases) {
    const Run result = gui(wrong.arguments);
    CAPTURE(wrong.arguments.join(' '), result.err);
    CHECK(result.status == wrong.status);
    CHECK(result.err.contains(wrong.contains));
    CHECK(result.err.startsWith("snapgdb-gui: "));
    CHECK(result.err.count('\n') == 1);
    CHECK_FALSE(QFile::exists(picture));
  }
}

TEST_CASE("wrong usage is told from failure") {
  const Run wrong = gui({"x.snapgdb", "--tab", "nonsense"});
  CHECK(wrong.status == 2);
  CHECK(wrong.err.startsWith("snapgdb-gui: "));
  CHECK(wrong.err.count('\n') == 1);
  CHECK(gui({"x.snapgdb", "--size", "12"}).status == 2);
  CHECK(gui({"--screenshot", "x.png"}).status == 2);
  CHECK(gui({"--help"}).status == 0);
}

TEST_CASE("a process or thread that is not in the image is named") {
  const CapturedSleep captured;
  const Run result =
      gui({captured.image, "--process", "999999999", "--screenshot", captured.picture});
  CHECK(result.status == 1);
  CHECK(result.err.startsWith("snapgdb-gui: there is no process 999999999 in "));
}
