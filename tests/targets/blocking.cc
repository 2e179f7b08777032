#include "blocking.h"

#include <errno.h>

#include <cstring>

#include "blocking_family.h"

namespace target {
namespace {

std::atomic<bool> ending{false};

// Children are started first, while there is little that they could inherit.
const BlockingFamily* const kFamilies[] = {&kSignalCalls, &kFileCalls, &kSocketCalls,
                                           &kFutexCalls,  &kPollCalls, &kQueueCalls};

std::vector<BlockingCall> gathered(std::span<const BlockingCall> BlockingFamily::*calls) {
  std::vector<BlockingCall> all;
  for (const BlockingFamily* family : kFamilies)
    all.insert(all.end(), (family->*calls).begin(), (family->*calls).end());
  return all;
}

void check_endless(const BlockingCall& call) {
  Outcome outcome;
  do {
    outcome = outcome_of(call, 0);
  } while (call.after_stop == AfterStop::kFails && outcome.error == EINTR);
  if (!ending) differs("%s returned before it was released", call.name);
  if (outcome != call.expected)
    differs("%s gave %ld (%s)", call.name, outcome.result, strerror(outcome.error));
}

void check_timed(const BlockingCall& call, uint64_t round_ns, uint64_t late_ns) {
  const uint64_t begin = now_ns(), end = begin + round_ns;
  Outcome outcome;
  do {
    const uint64_t now = now_ns();
    outcome = outcome_of(call, end > now ? end - now : 0);
  } while (call.after_stop == AfterStop::kFails && outcome.error == EINTR);
  const uint64_t took = now_ns() - begin;
  if (outcome != call.expected)
    differs("%s gave %ld (%s)", call.name, outcome.result, strerror(outcome.error));
  if (took + kTickNs < round_ns ||
      (call.after_stop != AfterStop::kGoesOnLonger && took > round_ns + late_ns))
    differs("%s of %lu ms took %lu ms", call.name, round_ns / 1000000, took / 1000000);
}

}  // namespace

void prepare_blocking() {
  for (const BlockingFamily* family : kFamilies) family->prepare();
}

std::span<const BlockingCall> timed_calls() {
  static const auto calls = gathered(&BlockingFamily::timed);
  return calls;
}
std::span<const BlockingCall> endless_calls() {
  static const auto calls = gathered(&BlockingFamily::endless);
  return calls;
}

void end_blocking() {
  for (const BlockingFamily* family : kFamilies)
    if (family->end) family->end();
}

Outcome outcome_of(const BlockingCall& call, uint64_t ns) {
  const long result = call.call(ns);
  return {result, result < 0 ? errno : 0};
}

BlockedThreads::BlockedThreads(uint64_t round_ns, uint64_t late_ns) {
  prepare_blocking();
  threads_.reserve(endless_calls().size() + timed_calls().size());
  for (const BlockingCall& call : endless_calls()) {
    threads_.emplace_back(call.name, [&] { check_endless(call); });
    wait_until_blocked(threads_.back().tid(), call.system_call);
  }
  for (const BlockingCall& call : timed_calls())
    threads_.emplace_back(call.name, [&call, round_ns, late_ns] {
      while (!ending) check_timed(call, round_ns, late_ns);
    });
}

BlockedThreads::~BlockedThreads() = default;

void BlockedThreads::finish() {
  ending = true;
  for (size_t i = 0; i < endless_calls().size(); ++i) endless_calls()[i].release(threads_[i]);
  for (Thread& thread : threads_) thread.join();
  end_blocking();
}

}  // namespace target
