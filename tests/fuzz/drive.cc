// Drives a fuzz target where there is no libFuzzer: every seed as it is, then mutations of them for
// as long as it is told. Blind, but it runs with every test.
//
//   fuzz_NAME [--seconds N] [--seed N] FILE|DIRECTORY…
//
// The input at work is kept in fuzz_NAME.input, which is removed at the end: what it ended in
// otherwise (a crash, a sanitizer, a test's time limit) is seen again with `fuzz_NAME FILE`.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

namespace fs = std::filesystem;
using Input = std::string;

constexpr size_t kMaxSize = size_t{1} << 20;

class Runner {
 public:
  explicit Runner(std::string path)
      : path_(std::move(path)),
        fd_(::open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)) {
    if (fd_ < 0) std::perror(path_.c_str()), std::exit(2);
  }
  void run(const Input& input) {
    if (::ftruncate(fd_, 0) != 0 || ::pwrite(fd_, input.data(), input.size(), 0) < 0)
      std::perror(path_.c_str()), std::exit(2);
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
    ++inputs_;
  }
  size_t finish() const {
    ::unlink(path_.c_str());
    return inputs_;
  }

 private:
  std::string path_;
  int fd_;
  size_t inputs_ = 0;
};

class Mutator {
 public:
  Mutator(const std::vector<Input>& seeds, uint64_t seed) : seeds_(seeds), random_(seed) {}

  Input next() {
    Input input = seeds_[below(seeds_.size())];
    for (size_t i = 1 + below(8); i > 0; --i) (this->*kSteps[below(kSteps.size())])(input);
    input.resize(std::min(input.size(), kMaxSize));
    return input;
  }

 private:
  size_t below(size_t limit) { return limit == 0 ? 0 : random_() % limit; }

  void flip_bit(Input& input) {
    if (!input.empty()) input[below(input.size())] ^= static_cast<char>(1 << below(8));
  }
  void set_byte(Input& input) {
    if (!input.empty()) input[below(input.size())] = static_cast<char>(random_());
  }
  // A number where something may be counted: the edges of its type, or a little more or less.
  void set_number(Input& input) {
    static constexpr uint64_t kEdges[] = {0,         1,           0x7f,        0x80,
                                          0xff,      0x7fff'ffff, 0x8000'0000, 0xffff'ffff,
                                          INT64_MAX, UINT64_MAX,  4096,        1 << 20};
    const size_t width = size_t{1} << below(4);
    if (input.size() < width) return;
    const size_t at = below(input.size() - width + 1);
    uint64_t value = 0;
    std::memcpy(&value, input.data() + at, width);
    value = below(2) ? kEdges[below(std::size(kEdges))] : value + below(9) - 4;
    std::memcpy(input.data() + at, &value, width);
  }
  void remove(Input& input) {
    const size_t at = below(input.size());
    input.erase(at, below(std::min<size_t>(input.size() - at, 64)) + 1);
  }
  void repeat(Input& input) {
    const size_t at = below(input.size());
    input.insert(below(input.size()), input.substr(at, below(64) + 1));
  }
  void cut(Input& input) { input.resize(below(input.size() + 1)); }
  void splice(Input& input) {
    const Input& other = seeds_[below(seeds_.size())];
    const size_t from = below(other.size()), length = below(256) + 1;
    if (!input.empty()) input.replace(below(input.size()), length, other.substr(from, length));
  }

  using Step = void (Mutator::*)(Input&);
  static constexpr std::array<Step, 9> kSteps{
      &Mutator::flip_bit,   &Mutator::flip_bit,   &Mutator::set_byte,
      &Mutator::set_number, &Mutator::set_number, &Mutator::remove,
      &Mutator::repeat,     &Mutator::cut,        &Mutator::splice};

  const std::vector<Input>& seeds_;
  std::mt19937_64 random_;
};

Input read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void add_seeds(const fs::path& path, std::vector<Input>& seeds) {
  if (!fs::is_directory(path)) return seeds.push_back(read_file(path));
  for (const auto& entry : fs::recursive_directory_iterator(path))
    if (entry.is_regular_file()) seeds.push_back(read_file(entry.path()));
}

}  // namespace

int main(int argc, char** argv) {
  uint64_t seconds = 0, seed = std::random_device()();
  std::vector<Input> seeds;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--seconds" && i + 1 < argc)
      seconds = std::stoull(argv[++i]);
    else if (word == "--seed" && i + 1 < argc)
      seed = std::stoull(argv[++i]);
    else
      add_seeds(word, seeds);
  }
  if (seeds.empty()) return std::fprintf(stderr, "no seeds\n"), 2;

  Runner runner(fs::path(argv[0]).filename().string() + ".input");
  std::printf("%zu seeds, then %ju s with --seed %ju\n", seeds.size(),
              static_cast<uintmax_t>(seconds), static_cast<uintmax_t>(seed));
  std::fflush(stdout);
  for (const Input& input : seeds) runner.run(input);
  Mutator mutator(seeds, seed);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  while (std::chrono::steady_clock::now() < end) runner.run(mutator.next());
  std::printf("%zu inputs\n", runner.finish());
  return 0;
}
