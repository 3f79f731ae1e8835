#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/clock.h"
#include "memory/reader.h"

namespace echion {

/// What may be spent on reading a process or a file.
struct ReadLimits {
    std::uint64_t bytes;
    std::uint64_t reads;  ///< ranges copied
    std::int64_t time_ns;
};

// The bounds on all that this program reads of another process, for one piece of work each. A
// process may be made so that the work never ends; each bound is ten times and more what the
// largest real ones take (500 libraries, 10,000 threads), so that only such a process meets it.

/// Finding the interpreter: 20 reads for each mapped object and up to three times the writable data
/// of one (32 MiB); hash chains of symbols are what a hostile object makes long.
constexpr ReadLimits kLocateLimits{std::uint64_t{256} << 20, 2'000'000, 10 * kNanosPerSecond};
/// One report of all threads, or one sample of the following view: 16,384 threads of 2,048 frames
/// are 33 million frames, of which 16 and more lie in a page of 4 KiB.
constexpr ReadLimits kReportLimits{std::uint64_t{8} << 30, 20'000'000, 20 * kNanosPerSecond};
/// The functions that attaching needs, out of all mapped objects: 60 look-ups in each part of the C
/// library, 8 in any other object.
constexpr ReadLimits kTargetCodeLimits{std::uint64_t{256} << 20, 4'000'000, 10 * kNanosPerSecond};
/// The symbol tables of files: the largest real one and its names (64 MiB each), twice.
constexpr ReadLimits kSymbolFileLimits{std::uint64_t{256} << 20, 65'536, 10 * kNanosPerSecond};

/// What is left of some limits. Once anything has been used up, all is over for good. The time runs
/// from the construction on. One thread.
class ReadBudget {
  public:
    explicit ReadBudget(const ReadLimits& limits)
        : bytes_left_(limits.bytes),
          reads_left_(limits.reads),
          deadline_ns_(monotonic_ns() + limits.time_ns) {}

    /// Takes the cost of what is about to be read; false, and nothing is to be read, when that is
    /// more than what is left.
    bool spend(std::uint64_t bytes, std::uint64_t reads = 1) noexcept {
        if (bytes > bytes_left_ || reads > reads_left_) {
            is_over_ = true;
        }
        if (is_over_ || !has_time()) {
            return false;
        }
        bytes_left_ -= bytes;
        reads_left_ -= reads;
        return true;
    }

    /// Whether there is time left; for work that reads nothing. Costs a look at the clock (25 ns).
    bool has_time() noexcept {
        is_over_ = is_over_ || monotonic_ns() >= deadline_ns_;
        return !is_over_;
    }

    /// Whether something has been refused.
    [[nodiscard]] bool is_over() const noexcept { return is_over_; }

  private:
    std::uint64_t bytes_left_;
    std::uint64_t reads_left_;
    std::int64_t deadline_ns_;
    bool is_over_ = false;
};

/// A reader that ends with its budget: from then on nothing can be read (ETIMEDOUT). Walkers take
/// that for unreadable memory and stop; whoever owns the budget asks it for the true reason.
class BudgetedReader final : public MemoryReader {
  public:
    /// Both outlive it.
    BudgetedReader(MemoryReader& reader, ReadBudget& budget) : reader_(reader), budget_(budget) {}

    std::size_t read(std::span<const ReadRequest> requests) noexcept override {
        std::uint64_t bytes = 0;
        for (const ReadRequest& request : requests) {
            // Saturates: a size that the target has a say in may be anything.
            bytes =
                request.size_bytes > UINT64_MAX - bytes ? UINT64_MAX : bytes + request.size_bytes;
        }
        if (!budget_.spend(bytes, requests.size())) {
            errno = ETIMEDOUT;
            return 0;
        }
        return reader_.read(requests);
    }

  private:
    MemoryReader& reader_;
    ReadBudget& budget_;
};

}  // namespace echion
