#pragma once

#include <QFutureWatcher>
#include <QObject>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/image/snapshot.h"
#include "gui/jobs/background.h"
#include "gui/models/descriptor_peers.h"
#include "gui/models/missing_model.h"

namespace snapgdb::gui {

// A snapshot with what takes long to find in it.
struct LoadedImage {
  QString name;  // as it was asked for: "IMG" or "IMG@K"
  std::shared_ptr<const Snapshot> snapshot;
  std::unique_ptr<const DescriptorPeers> peers;
  std::vector<MissingRow> missing;
};
using LoadedImagePointer = std::shared_ptr<const LoadedImage>;

// Reads images in the background. May be destroyed while one is being read: nothing is heard of it.
class ImageLoader final : public QObject {
  Q_OBJECT

 public:
  using Open = std::function<std::shared_ptr<const Snapshot>(const std::string& name)>;

  // `open` is called in another thread; by default it is open_snapshot().
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
