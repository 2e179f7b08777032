#include "gui/views/summary_view.h"

#include <QFormLayout>
#include <QGroupBox>
#include <QLabel>
#include <QVBoxLayout>

#include "gui/views/item_delegate.h"

namespace snapgdb::gui {
namespace {

// In characters: that of the longest name, so that the groups line up.
constexpr int kNameWidth = 15;

QGroupBox* new_group(const QString& title) {
  auto* group = new QGroupBox(title);
  auto* form = new QFormLayout(group);
  form->setLabelAlignment(Qt::AlignRight);
  form->setFieldGrowthPolicy(QFormLayout::AllNonFixedFieldsGrow);
  form->setHorizontalSpacing(16);
  return group;
}

QLabel* new_label(const QString& text, const QString& explanation) {
  auto* label = new QLabel(text);
  label->setTextFormat(Qt::PlainText);
  label->setToolTip(plain_tooltip(explanation));
  return label;
}

void fill(QGroupBox& group, const std::vector<Fact>& facts) {
  auto* form = static_cast<QFormLayout*>(group.layout());
  while (form->rowCount()) form->removeRow(0);
  for (const Fact& fact : facts) {
    QLabel* name = new_label(fact.name, fact.explanation);
    QLabel* value = new_label(fact.value, fact.explanation);
    name->setForegroundRole(QPalette::PlaceholderText);
    name->setAlignment(Qt::AlignRight | Qt::AlignTop);
    name->setMinimumWidth(name->fontMetrics().averageCharWidth() * kNameWidth);
    value->setWordWrap(true);
    value->setTextInteractionFlags(Qt::TextSelectableByMouse | Qt::TextSelectableByKeyboard);
    value->setAccessibleName(fact.name);
    form->addRow(name, value);
  }
  group.setVisible(!facts.empty());
}

}  // namespace

SummaryView::SummaryView(QWidget* parent)
    : QScrollArea(parent),
      snapshot_(new_group(QStringLiteral("Snapshot"))),
      process_(new_group(QStringLiteral("Process"))) {
  auto* content = new QWidget;
  auto* layout = new QVBoxLayout(content);
  layout->addWidget(snapshot_);
  layout->addWidget(process_);
  layout->addStretch();
  setWidget(content);
  setWidgetResizable(true);
  setFrameShape(QFrame::NoFrame);
}

void SummaryView::show_snapshot(const std::vector<Fact>& facts) {
  fill(*snapshot_, facts);
}

void SummaryView::show_process(const QString& title, const std::vector<Fact>& facts) {
  // In a group box's title an ampersand marks the letter that follows it.
  process_->setTitle(QString(title).replace(QLatin1Char('&'), QLatin1String("&&")));
  fill(*process_, facts);
}

}  // namespace snapgdb::gui
