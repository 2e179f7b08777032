#include "gui/jobs/image_loader.h"

#include <QFile>

#include <algorithm>

namespace snapgdb::gui {
namespace {

LoadedImagePointer load(const ImageLoader::Open& open, const QString& name) {
  auto image = std::make_shared<LoadedImage>();
  image->name = name;
  const Opened opened = open(QFile::encodeName(name).toStdString());
  image->snapshot = opened.snapshot;
  image->number = opened.number;
  image->count = opened.count;
  image->peers = std::make_unique<const DescriptorPeers>(*image->snapshot);
  image->missing = find_missing(*image->snapshot);
  return image;
}

}  // namespace

Opened::Opened(const OpenedSnapshot& opened) : snapshot(opened.snapshot) {
  const std::vector<uint64_t> sequences = opened.image->snapshots();
  count = sequences.size();
  const auto own = std::ranges::find(sequences, snapshot->record().sequence());
  number = static_cast<size_t>(own - sequences.begin()) + 1;
}

ImageLoader::ImageLoader(QObject* parent, Open open) : QObject(parent), open_(std::move(open)) {
  if (!open_) open_ = [](const std::string& name) { return open_with_image(name); };
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
