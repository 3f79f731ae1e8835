#pragma once

#include <algorithm>
#include <cstdint>

/// The stream's wire format: what the agent writes into the shared ring and the command-line
/// program reads. Everything that arrives is untrusted: a root program reads what an unprivileged
/// process wrote.
///
///     ring:    batch batch batch …                one batch a tick, published in one piece
///     batch:   u32 size_bytes, then that many bytes of records (little-endian, unaligned)
///     record:  u8 type, then its fields
///     varint:  LEB128, unsigned, at most 10 bytes; svarint: zigzag of it
///     text:    varint size_bytes, then UTF-8 (at most kMaxTextBytes)
///
/// Ids are small numbers given by the agent. A definition holds until the same id is defined again;
/// what has been decoded before keeps the old meaning.
///
/// A batch is written whole or not at all. The first batch begins with kStart, every other with
/// kTick, and neither occurs anywhere else. A batch that had no room takes its definitions with it:
/// the next one that is written gives them again (see kLost).
namespace echion::stream {

constexpr std::uint32_t kStreamVersion = 4;

constexpr std::uint32_t kMaxBatchBytes = 4U << 20;  // one tick: 100,000 frames and their names
constexpr std::uint32_t kMaxTextBytes = 4096;       // one name; CPython sets no bound, a line must
constexpr std::uint32_t kMaxLineTableBytes = 1U << 20;
constexpr std::uint32_t kMaxCodes = 1U << 20;  // ids are below these
constexpr std::uint32_t kMaxThreads = 1U << 16;
/// Ids of threads from here on are of suspended tasks: such a one has the names and numbers of the
/// thread whose event loop the task belongs to, and a stack and a time of its own.
constexpr std::uint32_t kFirstTaskThread = kMaxThreads / 2;
constexpr std::uint32_t kMaxFrames = 1U << 18;  // of one stack: its record fits into a batch

enum class RecordType : std::uint8_t {
    /// First record of a stream. u32 stream version, varint CLOCK_MONOTONIC ns of its start,
    /// u8 major, u8 minor, u8 micro of CPython.
    kStart = 1,
    /// First record of every other batch. varint ns since the previous batch that was written (or
    /// the start), less what kLost says. Each living thread's time up to here belongs to the stack
    /// that the thread has after this tick. 0 continues the previous tick: a tick with more to say
    /// than one batch holds is spread over several.
    kTick = 2,
    /// varint code id; u8 CodeKind; varint first line; text name, qualified name (empty where the
    /// version has none), file name; varint size, bytes of the line table.
    /// Of kind kLabel it is no code but a label in the stack (a task, a greenlet): only the name
    /// counts.
    kCode = 3,
    /// varint thread id; svarint interpreter id; varint native thread id; text name.
    /// Starts a thread, without frames, or renames it.
    kThread = 4,
    /// varint thread id. Its time ends with the previous tick.
    kThreadEnd = 5,
    /// varint thread id; u8 flags (StackFlag); varint number of root-side frames kept from the
    /// thread's previous stack; varint number of frames that follow; for each, root first: varint
    /// code id, svarint byte offset of the instruction in the code (negative: before the first).
    /// Needed
    /// only when something of it has changed.
    kStack = 6,
    /// varint thread id; varint CPU ns used since the last such record: belongs to the stack that
    /// the thread has after this batch.
    kCpu = 7,
    /// Right behind kTick. varint ticks; varint ns. So many ticks, and the time up to the last of
    /// them, were not written for want of room. The stacks of all living threads follow in full
    /// (nothing kept), also those without frames; a thread whose stack does not follow in this tick
    /// has ended.
    kLost = 8,
    /// varint thread id; varint ns. Nobody looked for so long: so much CPU time, or in wall mode
    /// the time just before this tick, belongs to no stack of the thread. In front of its kStack,
    /// if it has one in this tick. Of a thread without a stack so far it may be more than it has
    /// been in the stream for.
    kMissed = 9,
    /// varint thread id; varint parts. From this tick on the thread's wall time counts as one part
    /// in so many of it; 0: it is nobody's, as that of an event loop that waits is its tasks'. 1
    /// for a thread that has been started.
    kShare = 10,
};

/// Ticks that may be missing between two looks at a thread, and the time between them be given to
/// the stack that is seen then.
constexpr std::int64_t kLongestGapTicks = 10;
/// What is short on any machine that does something else, too.
constexpr std::int64_t kLeastGapNs = 10'000'000;

/// For longer than this nobody may have looked at a thread: else that time is told as missed.
constexpr std::int64_t longest_gap_ns(std::int64_t interval_ns) {
    return std::max(kLongestGapTicks * interval_ns, kLeastGapNs);
}

/// How the line table of a kCode record is encoded. The first three are those of
/// cpython::LineTableKind, in that order.
enum class CodeKind : std::uint8_t {
    kLnotab = 0,
    kLinetable = 1,
    kLocations = 2,
    /// No table: it is too large for the stream, and what kStack records have for the instruction
    /// is its line, 0 where that is not known.
    kLines = 3,
    kLabel = 255,
};

/// Set of bits in a kStack record.
enum StackFlag : std::uint8_t {
    kStackTruncated = 1,  ///< Cut at the frame bound: frames are missing at the root.
    kStackInvalid = 2,    ///< Could not be walked to its root, or not proved consistent.
    kStackInGc = 4,       ///< The thread is running the cyclic garbage collector.
};

}  // namespace echion::stream
