#include "core/resource/hosts.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "core/base/error.h"
#include "core/image/extents.h"
#include "core/linux/host_task.h"

namespace snapgdb {
namespace {

// Rather further down than just below: if we are killed, two tasks go on at once.
constexpr uint64_t kDistance = 16 * 1024;
// The kernel makes the main thread's stack that large from the start. Where no task is on it (a
// goroutine may run on the main thread), its low end is as good as never used.
constexpr uint64_t kInitialStack = 128 * 1024;

uint64_t room_in(const std::optional<FreeStack>& stack) {
  return stack ? stack->high - stack->low : 0;
}

// As far as a detour takes. The kernel makes room there for who touches it, also from outside, as
// it does for the frame of a signal handler (expand_stack(), mm/mmap.c): so a main stack that is
// used down to its end grows.
std::optional<FreeStack> grown_stack(const FrozenProcess& frozen, const ProcMapping& stack) {
  constexpr uint64_t kWanted = 64 * 1024;
  if (stack.start < kWanted) return std::nullopt;
  const uint64_t low = stack.start - kWanted;
  const Fd memory = frozen.task_proc.open("mem", O_RDONLY);
  std::byte first{};
  const bool is_there =
      memory.valid() && ::pread(memory.get(), &first, 1, static_cast<off_t>(low)) == 1;
  return is_there ? std::optional(FreeStack{low + kPageSize, stack.start}) : std::nullopt;
}

std::optional<FreeStack> free_memory(const FrozenProcess& frozen, const CaptureContext& context,
                                     const std::vector<ProcMapping>& mappings) {
  std::optional<FreeStack> best;
  bool main_stack_in_use = false;
  const auto main_stack = std::ranges::find(mappings, "[stack]", &ProcMapping::name);
  for (const FrozenTask& task : frozen.tasks) {
    const Tracee* tracee = context.tracee_of(task);
    if (!tracee) continue;  // its child in vfork(2) is further down on the same stack
    const uint64_t pointer = tracee->registers().rsp;
    if (main_stack != mappings.end())
      main_stack_in_use |= main_stack->start <= pointer && pointer < main_stack->end;
    auto stack = free_stack(mappings, pointer);
    if (room_in(stack) > room_in(best)) best = stack;
    if (room_in(best) > 2 * kInitialStack) break;
  }
  if (room_in(best) > 2 * kDistance + kInitialStack / 2) best->high -= kDistance;
  constexpr uint64_t kLittle = 48 * 1024;
  if (main_stack_in_use && room_in(best) < kLittle)
    if (const auto grown = grown_stack(frozen, *main_stack)) return grown;
  if (best || main_stack == mappings.end() || main_stack_in_use ||
      main_stack->end - main_stack->start < kInitialStack)
    return best;
  return FreeStack{main_stack->start + kPageSize, main_stack->start + kInitialStack / 2};
}

// What is the same for all tasks of a process, looked up once.
const CaptureContext::Ground& ground_of(const FrozenProcess& frozen, CaptureContext& context) {
  const auto [known, is_new] = context.grounds.try_emplace(frozen.pid);
  CaptureContext::Ground& ground = known->second;
  if (!is_new) return ground;
  if (auto why = has_shadow_stack(frozen.task_status())) {
    ground.why_not = std::move(*why);
    return ground;
  }
  const std::vector<ProcMapping>& mappings = frozen.mappings();
  const auto gadgets = context.surveys.gadgets().find(frozen.a_task(), mappings);
  const auto memory = free_memory(frozen, context, mappings);
  if (!gadgets || !GadgetFinder::verify(frozen.a_task(), *gadgets))
    ground.why_not = "there is no code in the program to perform system calls";
  else if (!memory)
    ground.why_not = "none of its tasks is on an ordinary stack";
  else
    ground.place =
        Detour::Place{*gadgets, memory->low, memory->high, ignored_signals(frozen.task_status())};
  return ground;
}

Host host_if_fit(const StoppedTask& stopped, const CaptureContext& context,
                 const CaptureContext::Ground& ground, size_t scratch, UnderSeccomp seccomp) {
  Tracee* const task = context.tracee_of(stopped.task);
  if (!ground.place) return {.why_not = ground.why_not};
  if (!ground.place->has_room_for(scratch)) return {.why_not = "there is little room on its stack"};
  if (!task) return {.why_not = "it waits in vfork(2)"};
  Host host{.task = task, .place = *ground.place};
  host.place.pending = pending_signals(stopped.status());
  if (auto why = is_under_seccomp(stopped.status())) {
    if (seccomp == UnderSeccomp::kRefused) return {.why_not = std::move(*why)};
    try {
      auto filters = filters_of(*task);
      if (!filters) return {.why_not = std::move(*why)};  // strict mode
      host.place.filters = std::move(*filters);
    } catch (const SystemError&) {  // not our right
      return {.why_not = std::move(*why)};
    }
  }
  if (auto why = Detour::obstacle(*task)) return {.why_not = std::move(*why)};
  return host;
}

}  // namespace

Host host_in(const FrozenProcess& frozen, CaptureContext& context, size_t scratch,
             UnderSeccomp seccomp) {
  const auto& ground = ground_of(frozen, context);
  Host best;
  for (const FrozenTask& task : frozen.tasks) {
    Host host = host_if_fit(StoppedTask(frozen, task), context, ground, scratch, seccomp);
    if (host.task && !waits_with_restart_block(host.task->registers())) return host;
    if (!best.task) best = std::move(host);
  }
  return best;
}

Host host_of(const StoppedTask& stopped, CaptureContext& context, size_t scratch) {
  const auto& ground = ground_of(stopped.process, context);
  return host_if_fit(stopped, context, ground, scratch, UnderSeccomp::kAsFiltersAllow);
}

}  // namespace snapgdb
