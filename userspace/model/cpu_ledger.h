#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "model/profile_events.h"

namespace echion::model {

/// CPU time of one thread while it was watched, as somebody other than the agent counted it.
struct CountedCpu {
    std::uint32_t native_thread_id = 0;  ///< as the target sees it
    std::uint64_t cpu_ns = 0;
    std::uint64_t runnable_ns = 0;  ///< waited for a CPU
    std::uint64_t ended_ns = 0;     ///< CLOCK_MONOTONIC of its end; 0: it lives
};

/// Passes events on and counts the CPU time in them, so that what an agent did not come
/// to report (its process ended before the next tick) can be made good. Host side, one thread.
class CpuLedger final : public ProfileEvents {
  public:
    explicit CpuLedger(ProfileEvents& next) : next_(next) {}

    void start(std::uint64_t now_ns, PythonVersion version) override {
        next_.start(now_ns, version);
    }
    void tick(std::uint64_t ns) override;
    void lost(std::uint64_t ticks, std::uint64_t ns) override;
    void code(std::uint32_t code_id, const CodeView& code) override { next_.code(code_id, code); }
    void thread(std::uint32_t thread_id, std::int64_t interpreter_id,
                std::uint32_t native_thread_id, std::string_view name) override;
    void thread_end(std::uint32_t thread_id) override;
    void stack(std::uint32_t thread_id, StackMarks marks, std::uint32_t kept,
               std::span<const FrameLocation> frames) override;
    void cpu(std::uint32_t thread_id, std::uint64_t ns) override;
    void missed(std::uint32_t thread_id, std::uint64_t ns) override;
    void share(std::uint32_t thread_id, std::uint32_t parts) override {
        next_.share(thread_id, parts);
    }

    /// Whether events were about a thread with this number.
    [[nodiscard]] bool knows(std::uint32_t native_thread_id) const {
        return accounts_.contains(native_thread_id);
    }

    /// The living thread with this number, if there is one.
    [[nodiscard]] std::optional<std::uint32_t> find(std::uint32_t native_thread_id) const;

    /// After the last batch: what was counted for a thread beyond what the events told goes to the
    /// stack that it had last; if it has ended in them, to the thread without one. More than
    /// `longest_gap_ns` of it, and all of a thread that events did not tell of, is missed time. A
    /// number that several threads had, one after the other, may occur more than once.
    void settle(std::span<const CountedCpu> counted, std::uint64_t longest_gap_ns);

    /// What it holds for this process, about.
    [[nodiscard]] std::size_t memory_bytes() const;

    /// What events told of threads that have ended beyond what was counted for them, as settle()
    /// found: time that a hypervisor took from a running thread is told until the thread is
    /// switched away, and no later figure of an ended one makes up for it.
    [[nodiscard]] std::uint64_t overcounted_ns() const { return overcounted_ns_; }

  private:
    static constexpr std::uint32_t kNone = ~std::uint32_t{0};

    struct Account {
        std::uint64_t told_ns = 0;
        std::uint32_t thread_id = kNone;  // of the living thread
        std::string name;                 // the last one
    };

    void end(std::uint32_t thread_id);
    void note_told(std::uint32_t thread_id, std::uint64_t ns);

    ProfileEvents& next_;
    std::unordered_map<std::uint32_t, Account> accounts_;  // by native thread id
    std::vector<std::uint32_t> native_ids_;                // by thread id; 0: not alive
    std::vector<bool> is_stale_;  // by thread id: not given again since a loss
    bool has_stale_ = false;
    std::size_t names_bytes_ = 0;
    std::uint64_t overcounted_ns_ = 0;
};

}  // namespace echion::model
