#include "gui/views/elided_label.h"

#include <QPainter>

#include "gui/views/item_delegate.h"

namespace snapgdb::gui {

ElidedLabel::ElidedLabel(QWidget* parent) : QWidget(parent) {
  setSizePolicy(QSizePolicy::Preferred, QSizePolicy::Fixed);
}

void ElidedLabel::set_text(const QString& text) {
  text_ = text;
  setAccessibleName(text);
  setToolTip(plain_tooltip(text));
  updateGeometry();
  update();
}

QSize ElidedLabel::sizeHint() const {
  return QSize(fontMetrics().horizontalAdvance(text_) + 4, fontMetrics().height() + 4);
}

QSize ElidedLabel::minimumSizeHint() const {
  return QSize(fontMetrics().averageCharWidth() * 10, sizeHint().height());
}

void ElidedLabel::paintEvent(QPaintEvent*) {
  QPainter painter(this);
  painter.setPen(palette().color(foregroundRole()));
  painter.drawText(rect(), Qt::AlignVCenter | Qt::AlignLeft | Qt::TextSingleLine,
                   fontMetrics().elidedText(text_, Qt::ElideRight, width()));
}

}  // namespace snapgdb::gui
