#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace echion::output {

/// Has the samples of threads without a name wait for one, for a bounded time and in bounded
/// memory: `threading` enters a thread's name some microseconds after the thread has begun. Of one
/// process.
class LateNames {
  public:
    /// A sample without the part that names its thread.
    struct Record {
        std::string tail;
        std::int64_t value = 0;
    };
    /// Of each thread.
    struct Thread {
        bool may_be_named = false;
        unsigned checkpoints = 0;  ///< That records have waited through.
        std::vector<Record> records;
    };

    /// Takes a sample of a thread that may get a name yet. False: it is not taken, and no more of
    /// this thread's will be; first what waits is to be written, then this.
    bool keep(Thread& thread, std::string& tail, std::int64_t value);
    /// What waits, in the order that it came in. Nothing waits then.
    std::vector<Record> take(Thread& thread);
    /// About once a second. Whether the thread has waited long enough: no more of its samples will
    /// wait, and what waits is to be written.
    static bool ends_wait(Thread& thread);

    [[nodiscard]] std::size_t waiting_bytes() const { return waiting_bytes_; }

  private:
    std::size_t waiting_bytes_ = 0;
};

}  // namespace echion::output
