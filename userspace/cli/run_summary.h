#pragma once

#include <cstdint>

#include "base/error.h"
#include "cli/engine_choice.h"
#include "cli/forked_children.h"
#include "cli/options.h"
#include "cli/profile.h"

namespace echion::cli {

/// What became of a run.
enum class Outcome {
    kGood,           ///< The profile is written, or there was nothing to put into one.
    kNotAllSampled,  ///< Some process was not sampled, or not as was asked for; the user was told.
    kNotWritten,     ///< The profile could not be written.
};

/// What the user is told on standard error when a run is over. Borrows what ProfilingRun owns.
class RunSummary {
  public:
    struct Run {
        const Options& options;
        const Profile& profile;
        const EngineChoice& engine;
        const ForkedChildren& children;
        const CutFigures& cut;
        std::uint64_t agents_seen;  ///< that said they are there, whatever became of them
        std::uint64_t complaints;   ///< of what could not be sampled: the user was told of each
        int ending_signal;          ///< the one that came before the first sample; 0: none did
        bool leaves_empty_file;     ///< a profile without samples is a file
    };

    explicit RunSummary(const Run& run) : run_(run) {}

    /// What is wrong always; the figures if `verbose` or a terminal reads them. `written`: whether
    /// the output took the whole profile.
    [[nodiscard]] Outcome write(const Status& written) const;
    /// Of an output that could not be written to its end: why, and how much there is of it.
    void tell_not_complete(const Error& error, std::uint64_t kept_bytes) const;

  private:
    void tell_empty() const;
    void tell_shortfalls() const;
    void tell_children() const;
    void tell_figures() const;
    void tell_kernel() const;
    void tell_cuts() const;

    Run run_;
};

}  // namespace echion::cli
