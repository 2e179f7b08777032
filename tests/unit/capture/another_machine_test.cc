#include <dlfcn.h>
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>

#include "core/base/error.h"
#include "core/image/snapshot_builder.h"
#include "core/linux/host.h"
#include "core/resource/processor.h"
#include "core/resource/vdso.h"

using namespace snapgdb;

namespace {

std::span<const std::byte> own_vdso() {
  for (const Seed::KernelPart& part : Seed::kernel_parts())
    if (part.name == "[vdso]") return {reinterpret_cast<const std::byte*>(part.start), part.size};
  return {};
}

// An XSAVE area with only AVX's upper halves (component 2) in use, at the given offset.
std::string xstate_with_avx(uint32_t offset) {
  std::string xstate(offset + 256, '\0');
  const uint64_t in_use = 4;
  std::memcpy(xstate.data() + 512, &in_use, sizeof in_use);
  std::fill_n(xstate.begin() + offset, 256, 'y');
  return xstate;
}

RestorePlan check(const std::string& features, const std::string& xstate, bool go_without = false) {
  SnapshotBuilder builder;
  builder.record().mutable_host()->set_cpu_features(features);
  builder.process(10).thread(10).last_thread().set_xstate(xstate);
  RestorePlan plan;
  check_processor(*builder.build(), go_without, plan);
  return plan;
}

}  // namespace

TEST_CASE("functions of another kernel's vDSO lead to this one's, which tell the time") {
  const auto now = own_vdso();
  REQUIRE_FALSE(now.empty());
  const auto bytes = redirected(now, now, reinterpret_cast<uint64_t>(now.data()));
  void* code = mmap(nullptr, bytes.size(), PROT_READ | PROT_WRITE | PROT_EXEC,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(code != MAP_FAILED);
  std::memcpy(code, bytes.data(), bytes.size());
  void* vdso = dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_NOLOAD);
  REQUIRE(vdso);
  const auto* own =
      static_cast<const std::byte*>(dlvsym(vdso, "__vdso_clock_gettime", "LINUX_2.6"));
  REQUIRE(own);
  const auto offset = static_cast<size_t>(own - now.data());
  CHECK_FALSE(std::equal(own, own + 12, bytes.begin() + static_cast<ptrdiff_t>(offset)));
  const auto redirected_clock =
      reinterpret_cast<int (*)(clockid_t, timespec*)>(static_cast<std::byte*>(code) + offset);
  timespec before{}, shown{}, after{};
  clock_gettime(CLOCK_MONOTONIC, &before);
  CHECK(redirected_clock(CLOCK_MONOTONIC, &shown) == 0);
  clock_gettime(CLOCK_MONOTONIC, &after);
  const auto ns = [](const timespec& time) { return time.tv_sec * 1'000'000'000 + time.tv_nsec; };
  CHECK(ns(before) <= ns(shown));
  CHECK(ns(shown) <= ns(after));
  dlclose(vdso);
  munmap(code, bytes.size());
}

TEST_CASE("what is no vDSO is an error") {
  const std::vector<std::byte> junk(8192);
  CHECK_THROWS_AS(redirected(junk, own_vdso(), 0), Error);
  CHECK_THROWS_AS(redirected(std::span(junk).first(0), own_vdso(), 0), Error);
}

TEST_CASE("instructions that this processor lacks are named, and can be gone without") {
  const std::string features = describe_host().cpu_features;
  CHECK(check(features, "").obstacles.empty());
  CHECK(check(features + " unknown_to_us", "").obstacles.empty());
  const RestorePlan refused = check(features + " fma4 xop", "");
  REQUIRE(refused.obstacles.size() == 1);
  CHECK(refused.obstacles[0].why.find("it lacks fma4, xop,") != std::string::npos);
  CHECK(refused.obstacles[0].help.find("--without processor") != std::string::npos);
  const RestorePlan noted = check(features + " fma4", "", true);
  CHECK(noted.obstacles.empty());
  REQUIRE(noted.notes.size() == 1);
}

TEST_CASE("registers that this processor has no room for are in the way if they are in use") {
  std::string xstate(576, '\0');
  CHECK(check("", xstate).obstacles.empty());
  const uint64_t unheard_of = uint64_t{1} << 61;
  std::memcpy(xstate.data() + 512, &unheard_of, sizeof unheard_of);
  const RestorePlan plan = check("", xstate, true);
  REQUIRE(plan.obstacles.size() == 1);
  CHECK(plan.obstacles[0].resource == "registers of thread 10");
}

TEST_CASE("register state is laid out as this processor wants it") {
  const auto ranges = describe_host().xstate;
  const auto avx = std::ranges::find(ranges, 2u, &XstateRange::number);
  REQUIRE(avx != ranges.end());
  pb::Host then;
  pb::XstateComponent& component = *then.add_xstate();
  component.set_number(2), component.set_offset(avx->offset + 640), component.set_size(avx->size);
  const std::string here = xstate_here(then, xstate_with_avx(avx->offset + 640));
  CHECK(here.substr(avx->offset, avx->size) == std::string(avx->size, 'y'));
  CHECK(components_in_use(here) == 4);
  size_t end = 0;
  for (const XstateRange& range : ranges) end = std::max<size_t>(end, range.offset + range.size);
  CHECK(here.size() == end);
}
