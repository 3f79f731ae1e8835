#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/unique_fd.h"

namespace echion::output {

/// How it is known where a record ends. A file may end there.
enum class RecordEnds {
    kLines,   ///< With each line.
    kMarked,  ///< Where the writer has said so.
};

/// A part of a file's content, as it is handed over.
struct Chunk {
    std::unique_ptr<char[]> bytes;
    std::size_t size = 0;
    RecordEnds record_ends = RecordEnds::kLines;
    /// Of kMarked: where in it records end, ascending.
    std::vector<std::size_t> marks;

    /// Where the last record ends that ends behind `from` and not behind `to`; `from` if none does.
    [[nodiscard]] std::size_t find_end(std::size_t from, std::size_t to) const;
};

/// Writes to a descriptor from a thread of its own, in the order in which it is given text, so that
/// nobody waits for a full pipe, a slow disk or a file server that is gone. The thread begins with
/// the first text; signals are for others. All calls but wait() return at once.
class WriteQueue {
  public:
    /// What becomes of a regular file's content when the first text is written.
    enum class Begin {
        kEmpty,          ///< It goes. The file is this object's alone until it is closed.
        kUnnamed,        ///< The same of a file that has no name, and is not missed.
        kWhereItStands,  ///< It stays, and so does its end: others may write to it as well.
    };

    /// failure() tells if it cannot begin (EMFILE).
    explicit WriteQueue(UniqueFd fd, Begin begin = Begin::kEmpty);
    WriteQueue(WriteQueue&&) noexcept;
    WriteQueue& operator=(WriteQueue&&) noexcept;
    /// Gives up what is left. A write that the kernel has begun ends when it ends; nobody waits.
    ~WriteQueue();

    /// After a failure, and after give_up(), what comes is dropped. A regular file is then cut back
    /// to the last record that is whole, unless others write to it, too.
    void push(Chunk chunk);
    /// No more comes: when all is written the file is closed.
    void finish();
    /// Whether the file is closed, or given up.
    [[nodiscard]] bool has_ended() const;
    /// Readable when it has ended.
    [[nodiscard]] int ended_fd() const;
    void wait() const;
    void give_up();

    [[nodiscard]] int fd() const;
    [[nodiscard]] std::uint64_t waiting_bytes() const;
    [[nodiscard]] std::uint64_t written_bytes() const;
    /// written_bytes() less what was cut back; for after the end.
    [[nodiscard]] std::uint64_t kept_bytes() const;
    /// The first errno of writing and closing; 0: none.
    [[nodiscard]] int failure() const;
    /// Bytes that were left when it was given up.
    [[nodiscard]] std::uint64_t left_bytes() const;
    [[nodiscard]] bool was_given_up() const;
    /// Whether the file had lost its name when it was closed: nobody will ever read it.
    [[nodiscard]] bool has_vanished() const;

  private:
    struct State;
    static void run(const std::shared_ptr<State>& state);

    std::shared_ptr<State> state_;  // the thread has the other half
};

}  // namespace echion::output
