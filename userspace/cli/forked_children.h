#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "platform/program_image.h"

namespace echion::cli {

/// The children of sampled processes that go on with their parent's program, as a server's workers
/// do: they are not sampled. As the kernel's flag tells (PF_FORKNOEXEC), so that one that executes
/// another program, or the same again, is none of them. A child that lives for less than
/// kLeastLifeNs, or has not been looked at after that, is not counted: it may have been about to
/// execute something.
class ForkedChildren {
  public:
    static constexpr std::int64_t kLeastLifeNs = 100'000'000;

    /// Names a process: its number, and its start (ProcessDescent::start_ticks; 0: not known). A
    /// number alone may be another process's by the time that it is looked at.
    using Key = std::pair<pid_t, std::uint64_t>;

    /// Looks at the children of the sampled processes: those of their first threads, or of all
    /// threads, and then also at those of children that are known. Ends, after one step at the
    /// least, at `until_ns` of the monotonic clock: the next call goes on from there, and begins a
    /// round of its own only when that one is through. A step is one child, or the list of one
    /// thread's children, or of one process's threads.
    void look(std::span<const Key> parents, bool at_all_threads, std::int64_t until_ns);
    /// Looks once more at all that are known. At the end.
    void settle();

    /// So many there were.
    [[nodiscard]] std::size_t count() const;
    /// Their numbers, at most `limit`; those that live come first.
    [[nodiscard]] std::vector<pid_t> list(std::size_t limit) const;
    /// Whether one of them lived at settle().
    [[nodiscard]] bool has_living() const;

  private:
    struct Child {
        bool counts = false;   // has lived for so long
        bool is_alive = true;  // when it was looked at last
        void update(const ProcessDescent& descent);
    };
    /// To be done in this round: a process whose threads, a thread whose children, and a child that
    /// are to be looked at.
    struct ThreadOf {
        Key process;
        pid_t tid;
    };
    struct ChildOf {
        pid_t parent;
        pid_t pid;
    };

    void begin_round(std::span<const Key> parents, bool at_all_threads);
    [[nodiscard]] bool has_work() const {
        return !children_left_.empty() || !threads_left_.empty() || !processes_left_.empty();
    }
    void step();
    void note(const ChildOf& found);
    bool is_there(const Key& process);

    /// A program that makes more is known by these.
    static constexpr std::size_t kMaxKnown = 10'000;
    std::map<Key, Child> children_;
    std::vector<Key> processes_left_;
    std::vector<ThreadOf> threads_left_;
    std::vector<ChildOf> children_left_;
    bool wants_all_threads_ = false;  // in the next round
};

}  // namespace echion::cli
