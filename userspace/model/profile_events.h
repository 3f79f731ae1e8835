#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

/// What one agent reports, as plain calls: the stream's decoder makes them, the profile builder
/// receives them. Everything in them has been checked: ids and counts are within the stream's
/// bounds, what is referred to has been defined, texts are UTF-8.
namespace echion::model {

struct PythonVersion {
    std::uint8_t major = 0;
    std::uint8_t minor = 0;
    std::uint8_t micro = 0;
};

/// How a line table is encoded; kLines: there is none, the offset is the line; kLabel: no code at
/// all but a name in the stack (a task).
enum class CodeKind : std::uint8_t { kLnotab, kLinetable, kLocations, kLines, kLabel };

/// A code object. The views are valid during the call only.
struct CodeView {
    CodeKind kind = CodeKind::kLabel;
    std::uint32_t first_line = 0;
    std::string_view name;
    std::string_view qualified_name;  ///< Empty where the version has none.
    std::string_view file_name;
    std::span<const std::byte> line_table;
};

/// Where one frame is: the instruction at `offset` bytes in a code, negative before the first.
struct FrameLocation {
    std::uint32_t code_id = 0;
    std::int32_t offset = 0;
};

/// What is wrong or special with a stack.
struct StackMarks {
    bool truncated = false;  ///< Frames are missing at the root: the bound was reached.
    bool invalid = false;    ///< Not walked to the root, or not proved consistent.
    bool in_gc = false;      ///< In the cyclic garbage collector.

    bool operator==(const StackMarks&) const = default;
};

/// Threads from this id on are suspended tasks of a thread, whose name and number they have.
constexpr std::uint32_t kFirstTaskThread = 1U << 15;

class ProfileEvents {
  public:
    virtual ~ProfileEvents() = default;

    /// The stream's first event. CLOCK_MONOTONIC, as the target claims.
    virtual void start(std::uint64_t now_ns, PythonVersion version) = 0;
    /// `ns` have passed since the previous tick; 0 goes on with that tick.
    virtual void tick(std::uint64_t ns) = 0;
    /// Right behind tick(): before it, `ticks` of them taking `ns` were lost.
    virtual void lost(std::uint64_t ticks, std::uint64_t ns) = 0;
    /// Defines or redefines a code id.
    virtual void code(std::uint32_t code_id, const CodeView& code) = 0;
    /// Starts or renames a thread.
    virtual void thread(std::uint32_t thread_id, std::int64_t interpreter_id,
                        std::uint32_t native_thread_id, std::string_view name) = 0;
    virtual void thread_end(std::uint32_t thread_id) = 0;
    /// The thread's stack from the tick on: `kept` root-side frames of its previous one, then
    /// `frames`, root first.
    virtual void stack(std::uint32_t thread_id, StackMarks marks, std::uint32_t kept,
                       std::span<const FrameLocation> frames) = 0;
    /// CPU time that belongs to the stack that the thread has after this tick.
    virtual void cpu(std::uint32_t thread_id, std::uint64_t ns) = 0;
    /// CPU time, or wall time just before this tick, that belongs to no stack. Comes in front of
    /// the thread's new stack, if it has one. Of a thread without a stack so far it may be more
    /// than it has been known for.
    virtual void missed(std::uint32_t thread_id, std::uint64_t ns) = 0;
    /// From the tick on one part in `parts` of the thread's wall time is counted, or none of it
    /// (0). 1 for a thread that has just been started.
    virtual void share(std::uint32_t thread_id, std::uint32_t parts) = 0;
};

}  // namespace echion::model
