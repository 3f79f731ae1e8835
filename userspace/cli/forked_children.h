#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace echion::cli {

/// The children of sampled processes that go on with their parent's program, as a server's workers
/// do: they are not sampled. As the kernel's flag tells (PF_FORKNOEXEC), so that one that executes
/// another program, or the same again, is none of them. A child that lives for less than
/// kLeastLifeNs, or in it has not been looked for, is not counted: it may have been about to
/// execute something.
class ForkedChildren {
  public:
    static constexpr std::int64_t kLeastLifeNs = 100'000'000;

    /// Looks at the children of a process that is sampled: those of its first thread, or of all
    /// threads, and then also at those of children that are known. Some 20 us a thread and child.
    void look(pid_t parent, bool at_all_threads);
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
    };
    using Key = std::pair<pid_t, std::uint64_t>;  // number and start: names a process

    void note(pid_t pid);

    /// A program that makes more is known by these.
    static constexpr std::size_t kMaxKnown = 10'000;
    std::map<Key, Child> children_;
};

}  // namespace echion::cli
