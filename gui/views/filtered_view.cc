#include "gui/views/filtered_view.h"

#include <QHBoxLayout>
#include <QHeaderView>
#include <QLabel>
#include <QVBoxLayout>

#include "gui/models/text.h"

namespace snapgdb::gui {
namespace {

// Filtering 100,000 rows takes longer than typing a letter.
constexpr int kTypingPauseMs = 120;
constexpr int kFewRows = 5000;

int rows_below(const QAbstractItemModel& model, const QModelIndex& parent = {}) {
  int rows = model.rowCount(parent);
  const int children = rows;
  for (int row = 0; row < children; ++row) {
    const QModelIndex index = model.index(row, 0, parent);
    if (model.hasChildren(index)) rows += rows_below(model, index);
  }
  return rows;
}

}  // namespace

FilteredView::FilteredView(QAbstractItemModel* model, const QString& name, Nouns nouns,
                           QWidget* parent)
    : QWidget(parent),
      filter_(new QLineEdit),
      count_(new QLabel),
      view_(new TableView(name)),
      one_(nouns.one),
      many_(nouns.many) {
  proxy_.setSourceModel(model);
  view_->setModel(&proxy_);
  view_->setSortingEnabled(true);
  view_->sortByColumn(-1, Qt::AscendingOrder);  // as it comes, which is in order already

  filter_->setPlaceholderText(QStringLiteral("Filter %1").arg(QLatin1String(many_)));
  filter_->setToolTip(QStringLiteral("Shows the rows in which every word occurs (Ctrl+F)"));
  filter_->setAccessibleName(QStringLiteral("Filter for ") + name);
  filter_->setClearButtonEnabled(true);
  count_->setForegroundRole(QPalette::PlaceholderText);

  auto* line = new QHBoxLayout;
  line->addWidget(filter_);
  line->addWidget(count_);
  auto* layout = new QVBoxLayout(this);
  layout->setContentsMargins({});
  layout->addLayout(line);
  layout->addWidget(view_);
  setFocusProxy(view_);
  setTabOrder(filter_, view_);

  typing_.setSingleShot(true);
  connect(&typing_, &QTimer::timeout, this, &FilteredView::apply_filter);
  connect(filter_, &QLineEdit::textChanged, this, [this, model] {
    if (model->rowCount() < kFewRows)
      apply_filter();
    else
      typing_.start(kTypingPauseMs);
  });
  connect(filter_, &QLineEdit::returnPressed, this, [this] { view_->setFocus(); });
  connect(&proxy_, &QAbstractItemModel::modelReset, this, [this] {
    content_changed();
    view_->fit_columns();  // again: a tree is open only now
  });
  connect(view_->selectionModel(), &QItemSelectionModel::currentRowChanged, this,
          [this](const QModelIndex& index) { Q_EMIT current_changed(proxy_.mapToSource(index)); });
  content_changed();
}

FilteredView::~FilteredView() {
  delete view_;
}  // before the model it shows

void FilteredView::focus_filter() {
  filter_->setFocus(Qt::ShortcutFocusReason);
  filter_->selectAll();
}

void FilteredView::apply_filter() {
  proxy_.set_filter(filter_->text());
  content_changed();
  view_->scrollTo(view_->currentIndex());
}

void FilteredView::content_changed() {
  if (tree_) view_->expandAll();
  const int shown = tree_ ? rows_below(proxy_) : proxy_.rowCount();
  const int all = tree_ ? rows_below(*proxy_.sourceModel()) : proxy_.sourceModel()->rowCount();
  view_->set_empty_text(all ? QStringLiteral("The filter matches nothing") : nothing_);
  const QString all_text = counted(static_cast<uint64_t>(all), one_, many_);
  count_->setText(shown == all ? all_text : QStringLiteral("%1 of %2").arg(shown).arg(all_text));
}

QModelIndex FilteredView::current() const {
  return proxy_.mapToSource(view_->currentIndex());
}

void FilteredView::select(const QModelIndex& source_index) {
  if (source_index.isValid() && !proxy_.mapFromSource(source_index).isValid()) {
    filter_->clear();
    apply_filter();
  }
  const QModelIndex index = proxy_.mapFromSource(source_index);
  view_->setCurrentIndex(index);
  view_->scrollTo(index);
}

// What was selected before there was a size is in sight once there is one.
void FilteredView::showEvent(QShowEvent* event) {
  QWidget::showEvent(event);
  QTimer::singleShot(0, this, [this] { view_->scrollTo(view_->currentIndex()); });
}

void FilteredView::show_as_tree() {
  tree_ = true;
  view_->setRootIsDecorated(true);
  content_changed();
}

}  // namespace snapgdb::gui
