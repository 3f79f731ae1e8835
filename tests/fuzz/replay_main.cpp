// Runs a fuzz harness without libFuzzer: every file of a corpus folder as it is, then mutations of
// it from a fixed seed, so that a failure repeats.
//
//     harness CORPUS-FOLDER-OR-FILE [mutations per file]

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Bytes = std::vector<std::uint8_t>;

constexpr std::size_t kMaxInputBytes = std::size_t{1} << 16;
constexpr unsigned kDefaultMutations = 2000;

Bytes read_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return Bytes(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

void run(const Bytes& input) {
    // A copy of exactly the input's size on the heap lets AddressSanitizer see a read past its end.
    const Bytes exact(input.begin(), input.end());
    LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

std::size_t pick(std::mt19937& random, std::size_t bound) {
    return std::uniform_int_distribution<std::size_t>(0, bound)(random);
}

/// One small change: flip a bit, set a byte to an edge value, cut, repeat a part, or splice in
/// bytes of another input.
void mutate(Bytes& input, const Bytes& other, std::mt19937& random) {
    constexpr std::uint8_t kEdges[] = {0x00, 0x01, 0x7f, 0x80, 0xff, 0xfe};
    if (input.empty()) {
        input.push_back(static_cast<std::uint8_t>(random()));
        return;
    }
    const std::size_t at = pick(random, input.size() - 1);
    const auto place = input.begin() + static_cast<std::ptrdiff_t>(at);
    switch (random() % 6) {
        case 0:
            input[at] = static_cast<std::uint8_t>(input[at] ^ (1U << (random() % 8)));
            break;
        case 1:
            input[at] = kEdges[random() % std::size(kEdges)];
            break;
        case 2:
            input.resize(at);
            break;
        case 3: {
            const Bytes part(
                place, place + static_cast<std::ptrdiff_t>(
                                   pick(random, std::min<std::size_t>(input.size() - at, 64))));
            input.insert(place, part.begin(), part.end());
            break;
        }
        case 4:
            input.erase(place, place + static_cast<std::ptrdiff_t>(pick(
                                           random, std::min<std::size_t>(input.size() - at, 16))));
            break;
        default: {
            const std::size_t count = std::min<std::size_t>(other.size(), 32);
            const std::size_t from = other.empty() ? 0 : pick(random, other.size() - count);
            const auto begin = other.begin() + static_cast<std::ptrdiff_t>(from);
            input.insert(place, begin, begin + static_cast<std::ptrdiff_t>(count));
        }
    }
    if (input.size() > kMaxInputBytes) {
        input.resize(kMaxInputBytes);
    }
}

}  // namespace

int main(int argc, char** argv) {
    std::vector<Bytes> corpus;
    if (argc > 1 && std::filesystem::is_directory(argv[1])) {
        std::vector<std::filesystem::path> files;
        for (const auto& entry : std::filesystem::recursive_directory_iterator(argv[1])) {
            if (entry.is_regular_file()) {
                files.push_back(entry.path());
            }
        }
        std::sort(files.begin(), files.end());
        for (const auto& file : files) {
            corpus.push_back(read_file(file));
        }
    } else if (argc > 1 && std::filesystem::exists(argv[1])) {
        corpus.push_back(read_file(argv[1]));
    }
    const std::size_t files = corpus.size();
    corpus.emplace_back();  // the empty input belongs to every corpus
    const auto mutations =
        argc > 2 ? static_cast<unsigned>(std::strtoul(argv[2], nullptr, 10)) : kDefaultMutations;

    std::mt19937 random(20260101);
    for (const Bytes& seed : corpus) {
        run(seed);
        for (unsigned i = 0; i < mutations; ++i) {
            Bytes input = seed;
            for (unsigned changes = 1 + random() % 4; changes > 0; --changes) {
                mutate(input, corpus[pick(random, corpus.size() - 1)], random);
            }
            run(input);
        }
    }
    std::printf("%zu corpus files, %u mutations each\n", files, mutations);
    return 0;
}
