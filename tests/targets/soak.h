#pragma once

#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "target.h"

// What the random trees of soak.cc consist of. A seed says all: the same one gives the same tree.
namespace soak {

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(target::mix(seed)) {}
  // 0 to count - 1.
  uint64_t below(uint64_t count) { return engine_() % count; }
  bool one_in(uint64_t count) { return below(count) == 0; }
  // A generator of its own: what is done with it changes nothing of what comes later here.
  Random branch() { return Random(engine_()); }
  std::string bytes(size_t size);

 private:
  std::mt19937_64 engine_;
};

// Open descriptors, and whether they hold what they did. To check takes things away: it is done
// once, by the process that made the object, when everybody has looked at everything.
struct Object {
  std::vector<int> descriptors;
  std::function<void()> check;
};

struct Surroundings {
  Random& random;
  const target::ScratchDirectory& scratch;
  // Descriptors of this process, of any kind, that may be watched, sent and pointed to.
  const std::vector<int>& known;
  std::string fresh_name() const;  // of a file in the scratch directory
};

struct Kind {
  const char* name;
  Object (*make)(const Surroundings&);
};
const std::vector<Kind>& kinds();

// Memory in several mappings, and whether it holds what it did.
std::function<void()> map_memory(Random& random);

}  // namespace soak
