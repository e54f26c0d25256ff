// Feeds the fuzz target without libFuzzer: every file it is given, and damaged copies of them.
//
//   parsing_fuzz ITERATIONS SEED FILE…
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

std::string read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void feed(const std::string& bytes) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
}

// A byte at which a parser decides: a length, a tag, a quotation mark, or anything.
char telling_byte(std::mt19937_64& random) {
  static constexpr char kTelling[] = "\x00\x01\x08\x0a\x12\x1a\x2a\x3a\x4a\x7f\x80\xff\"{}[]:,-09e";
  return random() % 2 ? kTelling[random() % sizeof(kTelling)] : static_cast<char>(random());
}

std::string damaged(std::string bytes, const std::string& other, std::mt19937_64& random) {
  for (std::uint64_t i = 0; i <= random() % 6 && bytes.size() > 1; ++i) {
    const std::size_t at = 1 + random() % (bytes.size() - 1);
    switch (random() % 6) {
      case 0:
        bytes.resize(at);
        break;
      case 1:
        bytes.erase(at, random() % 8);
        break;
      case 2:
        bytes.insert(at, 1 + random() % 3, telling_byte(random));
        break;
      case 3:
        bytes.insert(at, other, random() % (other.size() + 1), random() % 64);
        break;
      default:
        bytes[at] = telling_byte(random);
    }
  }
  return bytes;
}

}  // namespace

int main(int count, char** values) {
  if (count < 4) {
    std::cerr << "parsing_fuzz ITERATIONS SEED FILE…" << std::endl;
    return EXIT_FAILURE;
  }
  std::mt19937_64 random(std::stoull(values[2]));
  std::vector<std::string> corpus;
  for (int i = 3; i < count; ++i) corpus.push_back(read_file(values[i]));
  for (const std::string& bytes : corpus) feed(bytes);
  for (std::uint64_t i = std::stoull(values[1]); i > 0; --i) {
    const std::string& bytes = corpus[random() % corpus.size()];
    feed(damaged(bytes, corpus[random() % corpus.size()], random));
  }
  std::cout << corpus.size() << " files read" << std::endl;
  return EXIT_SUCCESS;
}
