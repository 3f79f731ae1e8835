#pragma once

#include <cstdint>
#include <future>

#include "base/unique_fd.h"

struct bpf_map;

namespace echion::engine {

/// Makes a BPF ring buffer of that size (a power of two of pages); none, with errno, on failure.
UniqueFd make_snapshot_ring(std::uint32_t size_bytes);

/// The ring of the first target, entered into the map of rings while the programs are loaded.
///
/// Whenever a ring is entered, the kernel waits, for 5 to 20 ms, until no program uses the map's
/// old content any more (kernel/bpf/syscall.c, maybe_wait_bpf_programs). Here that is over before
/// anybody needs the ring; those of further targets are entered when they come.
class FirstRing {
  public:
    /// The number that the programs give to their first target (claim_target() in threads.bpf.h).
    static constexpr std::uint32_t kTarget = 0;

    /// Begins, in a thread of its own. `rings` is the map of an object that has not been loaded:
    /// it gets the map that is made here. When that fails, the object makes its own.
    FirstRing(bpf_map* rings, std::uint32_t max_targets, std::uint32_t ring_bytes);
    FirstRing(const FirstRing&) = delete;
    FirstRing& operator=(const FirstRing&) = delete;
    ~FirstRing() = default;

    /// The ring, once it is in the map; none when it could not be entered. To be called once.
    UniqueFd take();

  private:
    UniqueFd ring_;
    UniqueFd map_;
    std::future<bool> entered_;  // its destructor waits, while the two above are still open
};

}  // namespace echion::engine
