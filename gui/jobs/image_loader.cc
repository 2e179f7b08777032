#include "gui/jobs/image_loader.h"

#include <QFile>

#include "core/image/image_reader.h"

namespace snapgdb::gui {
namespace {

LoadedImagePointer load(const ImageLoader::Open& open, const QString& name) {
  auto image = std::make_shared<LoadedImage>();
  image->name = name;
  image->snapshot = open(QFile::encodeName(name).toStdString());
  image->peers = std::make_unique<const DescriptorPeers>(*image->snapshot);
  image->missing = find_missing(*image->snapshot);
  return image;
}

}  // namespace

ImageLoader::ImageLoader(QObject* parent, Open open) : QObject(parent), open_(std::move(open)) {
  if (!open_) open_ = [](const std::string& name) { return open_snapshot(name); };
  connect(&watcher_, &QFutureWatcherBase::finished, this, &ImageLoader::deliver);
}

void ImageLoader::open(const QString& name) {
  busy_ = true;
  watcher_.setFuture(run_in_background([open = open_, name] { return load(open, name); }));
}

void ImageLoader::deliver() {
  busy_ = false;
  const auto outcome = watcher_.result();
  if (const auto* image = std::get_if<LoadedImagePointer>(&outcome))
    Q_EMIT opened(*image);
  else
    Q_EMIT failed(std::get<QString>(outcome));
}

}  // namespace snapgdb::gui
