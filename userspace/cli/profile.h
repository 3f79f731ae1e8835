#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "model/profile_builder.h"
#include "model/stack_sink.h"
#include "output/formats.h"
#include "output/output_file.h"
#include "output/profile_writer.h"
#include "stream/counters.h"

namespace echion::cli {

/// What one agent's sampling amounted to.
struct ProcessFigures {
    std::uint64_t duration_ns = 0;
    std::uint64_t lost_ns = 0;
    std::uint64_t missed_us = 0;  ///< model::ProfileBuilder::missed_us()
    // Of the threads in the profile together, of wall time under BPF.
    std::uint64_t on_cpu_ns = 0;    ///< as the kernel counts it
    std::uint64_t runnable_ns = 0;  ///< waited for a CPU, likewise
    std::uint64_t value_us = 0;     ///< all of it; of CPU time, too
    /// CPU time in the profile that threads that have ended did not have: a hypervisor's, of `-c`.
    std::uint64_t overcounted_ns = 0;
    std::uint64_t lines_skipped = 0;  ///< model::ProfileBuilder::lines_skipped()
    std::array<std::uint64_t, stream::kCounterCount> counters{};
};

/// What the kernel's part of a run fell short of.
struct KernelFigures {
    std::uint64_t threads_refused = 0;  ///< are not in its table: full, or no memory
    std::int64_t lowered_rate = 0;  ///< limit on ticks a second that fell in the run; 0: did not
};

/// What this program left out of a run by its own bounds.
struct CutFigures {
    std::uint64_t output_stalled_ns = 0;  ///< rings were not drained, as the output did not keep up
    std::uint64_t ring_bytes = 0;         ///< of rings, at the end of their processes
    std::uint64_t processes = 0;          ///< ended for the memory or output that they took
    std::uint64_t children = 0;           ///< ForkedChildren: not sampled
};

/// What the header of a profile says beside what is measured.
struct ProfileSettings {
    model::Metric metric = model::Metric::kWallTime;
    std::uint64_t interval_ns = 0;  ///< that was asked for
    bool stealth = false;           ///< The sampler's own CPU time stays out.
    output::Format format = output::Format::kAustin;
    output::WriterLimits limits;
};

/// The profile of one run of Echion: one output file that the samples of any number of processes go
/// to, with a header in front and the sums of all figures behind.
class Profile {
  public:
    /// `file` is open, with nothing written to it yet.
    Profile(output::OutputFile file, const ProfileSettings& settings);

    /// What makes the ticks of one of the processes, and how far apart they are. The header says
    /// what is known when the first sample comes; of processes that differ the footer tells.
    void note_ticks(std::string_view engine, std::uint64_t interval_ns);
    /// The receiver of a process's samples; it lives no longer than the profile.
    std::unique_ptr<model::StackSink> add_process(pid_t pid) { return writer_->add_process(pid); }
    /// Adds up what a process that has ended amounted to, and puts the sampler's own CPU time into
    /// the profile unless stealth was asked for.
    /// One that has executed another program is the same process still: `start_ticks`, if known,
    /// tells it from others that had its number.
    void finish_process(pid_t pid, const ProcessFigures& figures, std::uint64_t start_ticks = 0);

    /// Has what is buffered written, so that a reader of the unfinished file sees it.
    void flush() {
        writer_->flush();
        file_.flush();
    }
    /// Whether the output does not keep up: then nothing should be taken from a ring for now. What
    /// is in the ring keeps, and a full ring costs the target nothing: the agent drops whole ticks,
    /// counts them, and says how long they took, so that all other times stay true.
    [[nodiscard]] bool is_behind() const { return file_.is_behind(); }
    /// Whether the output has reached its limit: there will be no more samples in it.
    [[nodiscard]] bool is_full() const { return writer_->is_full(); }
    [[nodiscard]] std::uint64_t waiting_bytes() const { return file_.waiting_bytes(); }
    [[nodiscard]] std::uint64_t written_bytes() const { return file_.written_bytes(); }

    /// Has the footer written and then the file closed. A profile without a process is written only
    /// if `even_empty`; else it leaves no file. Once; nothing is added afterwards.
    void begin_finish(bool even_empty, const KernelFigures& kernel, const CutFigures& cut = {});
    /// Whether all that is written and closed, or given up. ended_fd() is readable then.
    [[nodiscard]] bool has_ended() const { return file_.has_ended(); }
    [[nodiscard]] int ended_fd() const { return file_.ended_fd(); }
    /// Does not wait for what the output has not taken yet: the profile is not complete then.
    void give_up() { file_.give_up(); }
    /// How it went; for after the end.
    [[nodiscard]] Status status() const { return file_.status(); }
    [[nodiscard]] std::uint64_t kept_bytes() const { return file_.kept_bytes(); }
    [[nodiscard]] std::uint64_t delivered_bytes() const { return file_.delivered_bytes(); }
    [[nodiscard]] std::uint64_t appended_bytes() const { return file_.appended_bytes(); }
    /// Whether writing has failed: what comes is dropped.
    [[nodiscard]] bool has_failed() const { return file_.has_failed(); }
    /// begin_finish(), and waits.
    Status finish(bool even_empty, const KernelFigures& kernel, const CutFigures& cut = {});

    /// After the end: output::OutputFile::deliver().
    Status deliver() { return file_.deliver(); }

    [[nodiscard]] const std::string& path() const { return file_.path(); }
    [[nodiscard]] const ProfileSettings& settings() const { return settings_; }
    [[nodiscard]] const output::ProfileWriter& writer() const { return *writer_; }
    [[nodiscard]] std::uint64_t processes() const { return processes_; }
    [[nodiscard]] const ProcessFigures& totals() const { return totals_; }
    [[nodiscard]] std::uint64_t total(stream::Counter counter) const {
        return totals_.counters[static_cast<std::size_t>(counter)];
    }

  private:
    output::OutputFile file_;
    std::unique_ptr<output::ProfileWriter> writer_;
    ProfileSettings settings_;
    ProcessFigures totals_;
    std::uint64_t processes_ = 0;
    std::unordered_map<pid_t, std::uint64_t> start_ticks_;  // of the last with each number
    // Of all processes, each once, in the order that they came in.
    std::vector<std::string> engines_;
    std::vector<std::string> intervals_;
};

}  // namespace echion::cli
