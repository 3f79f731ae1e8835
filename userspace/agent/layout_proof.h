#pragma once

#include <cstdint>

#include "base/clock.h"
#include "base/error.h"
#include "cpython/layout_check.h"
#include "cpython/locate.h"
#include "platform/process_reader.h"

namespace echion::agent {

/// Whether the row of this Python's version is true of this process, before the first sample is
/// taken by it. Sampler thread only.
class LayoutProof {
  public:
    /// Takes memory.
    Status make();

    /// Looks, unless it is proved: whether samples may be taken by it, as nothing contradicts it.
    /// kUnsupportedVersion if it is refuted, with a text of the one sampler's.
    Result<bool> look(const cpython::LocatedRuntime& located, std::int64_t now_ns);
    /// At the end: an error, as from look(), if the row was contradicted to the last, so that there
    /// is no sample.
    [[nodiscard]] Status outcome(const cpython::LocatedRuntime& located) const;

  private:
    [[nodiscard]] tl::unexpected<Error> contradict(const cpython::LocatedRuntime& located) const;

    // Then only now and then: a program may run no Python code for as long as it likes.
    static constexpr std::uint32_t kEagerLooks = 100;
    static constexpr std::int64_t kLookNs = 100'000'000;

    cpython::LayoutCheck check_;
    ProcessReader reader_;
    std::uint32_t looks_ = 0;
    std::int64_t looked_ns_ = kLongAgoNs;
    cpython::LayoutVerdict verdict_ = cpython::LayoutVerdict::kUntold;
};

}  // namespace echion::agent
