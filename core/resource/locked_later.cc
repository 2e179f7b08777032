#include "core/resource/locked_later.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include <cerrno>

#include "core/resource/inquiry.h"
#include "core/resource/restorer.h"

namespace snapgdb {

std::optional<uint32_t> what_is_locked_later(const Host& host, const pb::Process& process) {
  const uint64_t now = program_break(process);
  if (static_cast<uint32_t>(now) != process.layout().brk_low()) return std::nullopt;
  const uint64_t page = (now + kPageSize - 1) / kPageSize * kPageSize, further = page + kPageSize;
  uint8_t is_here = 0;
  int32_t reached = 0, invalidated = 0;
  Inquiry inquiry(*host.task, host.place, sizeof is_here, 4);
  inquiry.call(SYS_brk, {further}, &reached);
  inquiry.call(SYS_msync, {page, kPageSize, MS_INVALIDATE}, &invalidated);
  inquiry.call(SYS_mincore, {page, kPageSize, inquiry.address_for(is_here)});
  inquiry.call(SYS_brk, {now});
  if (!inquiry.goes_by_itself()) return std::nullopt;
  inquiry.begin();
  inquiry.finish();
  if (static_cast<uint32_t>(reached) != static_cast<uint32_t>(further)) return std::nullopt;
  if (invalidated != -EBUSY) return 0;
  return MCL_FUTURE | (is_here & 1 ? 0 : MCL_ONFAULT);
}

}  // namespace snapgdb
