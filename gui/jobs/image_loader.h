#pragma once

#include <QFutureWatcher>
#include <QObject>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/image/image_reader.h"
#include "gui/jobs/background.h"
#include "gui/models/descriptor_peers.h"
#include "gui/models/missing_model.h"

namespace snapgdb::gui {

// A snapshot, and which of its image's it is: `number` of `count`, from 1.
struct Opened {
  Opened(std::shared_ptr<const Snapshot> only) : snapshot(std::move(only)) {}
  Opened(const OpenedSnapshot& opened);

  std::shared_ptr<const Snapshot> snapshot;
  size_t number = 1;
  size_t count = 1;
};

// A snapshot with what takes long to find in it.
struct LoadedImage {
  QString name;  // as it was asked for: "IMG" or "IMG@K"
  std::shared_ptr<const Snapshot> snapshot;
  size_t number = 1;  // of the image's snapshots, from 1
  size_t count = 1;
  std::unique_ptr<const DescriptorPeers> peers;
  std::vector<MissingRow> missing;
};
using LoadedImagePointer = std::shared_ptr<const LoadedImage>;

// Reads images in the background. May be destroyed while one is being read: nothing is heard of it.
class ImageLoader final : public QObject {
  Q_OBJECT

 public:
  using Open = std::function<Opened(const std::string& name)>;

  // `open` is called in another thread; by default it is open_with_image().
  explicit ImageLoader(QObject* parent = nullptr, Open open = {});

  // An image that is still being read is forgotten; this one is wanted instead.
  void open(const QString& name);
  bool busy() const { return busy_; }

 Q_SIGNALS:
  void opened(const snapgdb::gui::LoadedImagePointer& image);
  void failed(const QString& line);

 private:
  void deliver();

  Open open_;
  bool busy_ = false;
  QFutureWatcher<Outcome<LoadedImagePointer>> watcher_;
};

}  // namespace snapgdb::gui
