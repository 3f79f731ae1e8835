#include "stream/decoder.h"

#include <cstring>
#include <limits>
#include <utility>

#include "stream/record.h"
#include "stream/utf8.h"

namespace echion::stream {
namespace {

static_assert(kFirstTaskThread == model::kFirstTaskThread);
constexpr std::uint64_t kNanosPerDay = 86'400'000'000'000;
/// A tick, or CPU time since the last report, longer than this is a lie.
constexpr std::uint64_t kMaxDeltaNs = 366 * kNanosPerDay;
/// Bookkeeping of one definition, so that empty names are not free.
constexpr std::size_t kDefinitionOverheadBytes = 64;

tl::unexpected<Error> protocol_error(const char* what) { return fail(ErrorKind::kProtocol, what); }

}  // namespace

/// A cursor over one batch. A read past the end, or of an ill-formed number, sets `bad` and returns
/// 0 or nothing; the caller looks at it once a record, in front of using what was read.
class Decoder::Reader {
  public:
    explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

    [[nodiscard]] bool at_end() const { return at_ == bytes_.size(); }
    [[nodiscard]] bool is_bad() const { return bad_; }
    [[nodiscard]] std::size_t remaining() const { return bytes_.size() - at_; }

    std::uint8_t u8() {
        if (remaining() < 1) {
            bad_ = true;
            return 0;
        }
        return static_cast<std::uint8_t>(bytes_[at_++]);
    }

    std::uint32_t u32() {
        std::uint32_t value = 0;
        const auto bytes = raw(sizeof(value));
        if (bytes.size() == sizeof(value)) {
            std::memcpy(&value, bytes.data(), sizeof(value));
        }
        return value;
    }

    std::uint64_t varint() {
        std::uint64_t value = 0;
        for (unsigned shift = 0; shift < 64; shift += 7) {
            const std::uint8_t byte = u8();
            if (shift == 63 && byte > 1) {  // more than 64 bits
                break;
            }
            value |= static_cast<std::uint64_t>(byte & 0x7FU) << shift;
            if (byte < 0x80) {
                return value;
            }
        }
        bad_ = true;
        return 0;
    }

    std::int64_t svarint() {
        const std::uint64_t value = varint();
        return static_cast<std::int64_t>((value >> 1U) ^ (~(value & 1U) + 1));
    }

    std::span<const std::byte> raw(std::uint64_t size_bytes) {
        if (size_bytes > remaining()) {
            bad_ = true;
            return {};
        }
        const auto part = bytes_.subspan(at_, static_cast<std::size_t>(size_bytes));
        at_ += part.size();
        return part;
    }

    std::string_view text(std::string& storage) {
        const std::uint64_t size_bytes = varint();
        if (size_bytes > kMaxTextBytes) {
            bad_ = true;
            return {};
        }
        const auto bytes = raw(size_bytes);
        return repair_utf8({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, storage);
    }

  private:
    std::span<const std::byte> bytes_;
    std::size_t at_ = 0;
    bool bad_ = false;
};

Status Decoder::decode(std::span<const std::byte> batch) {
    const auto done = decode_some(batch, [] { return true; });
    return done ? Status() : tl::unexpected(done.error());
}

Result<std::size_t> Decoder::decode_some(std::span<const std::byte> batch,
                                         FunctionRef<bool()> goes_on) {
    if (failed_) {
        return protocol_error("the stream went wrong before");
    }
    Reader reader(batch);
    Status status;
    if (!std::exchange(in_batch_, true)) {
        status = started_ ? decode_tick(reader) : decode_start(reader);
    }
    while (status && !reader.at_end() && goes_on()) {
        status = decode_record(reader);
    }
    in_batch_ = !reader.at_end();
    failed_ = !status;
    if (!status) {
        return tl::unexpected(status.error());
    }
    return batch.size() - reader.remaining();
}

std::size_t Decoder::memory_bytes() const {
    return codes_.capacity() * sizeof(codes_[0]) + threads_.capacity() * sizeof(threads_[0]) +
           frames_.capacity() * sizeof(frames_[0]);
}

Status Decoder::decode_record(Reader& reader) {
    switch (static_cast<RecordType>(reader.u8())) {
        case RecordType::kCode:
            return decode_code(reader);
        case RecordType::kThread:
            return decode_thread(reader);
        case RecordType::kThreadEnd:
            return decode_thread_end(reader);
        case RecordType::kStack:
            return decode_stack(reader);
        case RecordType::kCpu:
            return decode_cpu(reader);
        case RecordType::kMissed:
            return decode_missed(reader);
        case RecordType::kShare:
            return decode_share(reader);
        case RecordType::kStart:
        case RecordType::kTick:
        case RecordType::kLost:
            return protocol_error("a start, tick or lost record is out of place");
        default:
            return protocol_error("a record's type is unknown");
    }
}

Status Decoder::decode_start(Reader& reader) {
    if (static_cast<RecordType>(reader.u8()) != RecordType::kStart) {
        return protocol_error("the stream does not begin with a start record");
    }
    const std::uint32_t version = reader.u32();
    if (!reader.is_bad() && version != kStreamVersion) {
        return protocol_error("the stream is of another version");
    }
    const std::uint64_t now_ns = reader.varint();
    model::PythonVersion python;
    python.major = reader.u8();
    python.minor = reader.u8();
    python.micro = reader.u8();
    if (reader.is_bad() || now_ns > std::numeric_limits<std::uint64_t>::max() / 2) {
        return protocol_error("the start record is damaged");
    }
    started_ = true;
    events_.start(now_ns, python);
    return {};
}

Status Decoder::decode_tick(Reader& reader) {
    if (static_cast<RecordType>(reader.u8()) != RecordType::kTick) {
        return protocol_error("a batch does not begin with a tick record");
    }
    const std::uint64_t ns = reader.varint();
    if (reader.is_bad() || ns > kMaxDeltaNs) {
        return protocol_error("a tick record is damaged");
    }
    events_.tick(ns);
    return decode_lost(reader);
}

Status Decoder::decode_lost(Reader& reader) {
    Reader ahead = reader;
    if (ahead.at_end() || static_cast<RecordType>(ahead.u8()) != RecordType::kLost) {
        return {};
    }
    const std::uint64_t ticks = ahead.varint();
    const std::uint64_t ns = ahead.varint();
    if (ahead.is_bad() || ns > kMaxDeltaNs) {
        return protocol_error("a lost record is damaged");
    }
    reader = ahead;
    // Stacks follow in full: nothing of the old ones may be kept.
    for (ThreadState& thread : threads_) {
        thread.depth = 0;
    }
    live_frames_ = 0;
    events_.lost(ticks, ns);
    return {};
}

bool Decoder::charge(std::uint32_t& charged, std::size_t bytes) {
    bytes += kDefinitionOverheadBytes;
    definition_bytes_ += bytes - charged;
    charged = static_cast<std::uint32_t>(bytes);
    return definition_bytes_ <= limits_.definition_bytes;
}

Status Decoder::decode_code(Reader& reader) {
    const std::uint64_t code_id = reader.varint();
    const std::uint8_t kind = reader.u8();
    model::CodeView code;
    const std::uint64_t first_line = reader.varint();
    code.name = reader.text(texts_[0]);
    code.qualified_name = reader.text(texts_[1]);
    code.file_name = reader.text(texts_[2]);
    const std::uint64_t table_bytes = reader.varint();
    if (table_bytes > kMaxLineTableBytes) {
        return protocol_error("a code record's line table is too long");
    }
    code.line_table = reader.raw(table_bytes);
    if (reader.is_bad()) {
        return protocol_error("a code record is damaged");
    }
    if (code_id >= kMaxCodes || first_line > std::numeric_limits<std::int32_t>::max()) {
        return protocol_error("a code record's id or line is out of bounds");
    }
    switch (static_cast<CodeKind>(kind)) {
        case CodeKind::kLnotab:
            code.kind = model::CodeKind::kLnotab;
            break;
        case CodeKind::kLinetable:
            code.kind = model::CodeKind::kLinetable;
            break;
        case CodeKind::kLocations:
            code.kind = model::CodeKind::kLocations;
            break;
        case CodeKind::kLines:
            code.kind = model::CodeKind::kLines;
            break;
        case CodeKind::kLabel:
            code.kind = model::CodeKind::kLabel;
            break;
        default:
            return protocol_error("a code record's kind is unknown");
    }
    code.first_line = static_cast<std::uint32_t>(first_line);
    const auto id = static_cast<std::uint32_t>(code_id);
    if (id >= codes_.size()) {
        codes_.resize(id + 1);
    }
    // One more than the texts have: a code whose names could not be read is defined, too.
    if (!charge(codes_[id].bytes, 1 + code.name.size() + code.qualified_name.size() +
                                      code.file_name.size() + code.line_table.size())) {
        return protocol_error("the definitions in force take too much memory");
    }
    events_.code(id, code);
    return {};
}

Status Decoder::decode_thread(Reader& reader) {
    const std::uint64_t thread_id = reader.varint();
    const std::int64_t interpreter_id = reader.svarint();
    const std::uint64_t native_thread_id = reader.varint();
    const std::string_view name = reader.text(texts_[0]);
    if (reader.is_bad()) {
        return protocol_error("a thread record is damaged");
    }
    if (thread_id >= kMaxThreads || native_thread_id > std::numeric_limits<std::uint32_t>::max()) {
        return protocol_error("a thread record's id is out of bounds");
    }
    const auto id = static_cast<std::uint32_t>(thread_id);
    if (id >= threads_.size()) {
        threads_.resize(id + 1);
    }
    if (!charge(threads_[id].name_bytes, name.size())) {
        return protocol_error("the definitions in force take too much memory");
    }
    threads_[id].alive = true;
    events_.thread(id, interpreter_id, static_cast<std::uint32_t>(native_thread_id), name);
    return {};
}

Decoder::ThreadState* Decoder::find_thread(std::uint64_t thread_id) {
    if (thread_id >= threads_.size() || !threads_[static_cast<std::size_t>(thread_id)].alive) {
        return nullptr;
    }
    return &threads_[static_cast<std::size_t>(thread_id)];
}

Status Decoder::decode_thread_end(Reader& reader) {
    const std::uint64_t thread_id = reader.varint();
    if (reader.is_bad() || thread_id >= kMaxThreads) {
        return protocol_error("a thread end record is damaged");
    }
    // A thread that nobody has heard of may end: its start may have been lost with a void batch.
    if (ThreadState* thread = find_thread(thread_id)) {
        live_frames_ -= thread->depth;
        definition_bytes_ -= thread->name_bytes;
        *thread = {};
        events_.thread_end(static_cast<std::uint32_t>(thread_id));
    }
    return {};
}

Status Decoder::decode_stack(Reader& reader) {
    const std::uint64_t thread_id = reader.varint();
    const std::uint8_t flags = reader.u8();
    const std::uint64_t kept = reader.varint();
    const std::uint64_t count = reader.varint();
    ThreadState* thread = find_thread(thread_id);
    if (reader.is_bad()) {
        return protocol_error("a stack record is damaged");
    }
    if (thread == nullptr) {
        return protocol_error("a stack record names an unknown thread");
    }
    if (kept > thread->depth) {
        return protocol_error("a stack record keeps more frames than there were");
    }
    if (kept > limits_.stack_frames || count > limits_.stack_frames - kept ||
        count > reader.remaining() / 2) {
        return protocol_error("a stack record has too many frames");
    }
    constexpr std::uint8_t kKnownFlags = kStackTruncated | kStackInvalid | kStackInGc;
    if ((flags & ~kKnownFlags) != 0) {
        return protocol_error("a stack record's flags are unknown");
    }
    frames_.clear();
    for (std::uint64_t i = 0; i < count; ++i) {
        const std::uint64_t code_id = reader.varint();
        const std::int64_t offset = reader.svarint();
        if (reader.is_bad() || offset < std::numeric_limits<std::int32_t>::min() ||
            offset > std::numeric_limits<std::int32_t>::max()) {
            return protocol_error("a stack record is damaged");
        }
        if (code_id >= codes_.size() || codes_[static_cast<std::size_t>(code_id)].bytes == 0) {
            return protocol_error("a stack record names an unknown code");
        }
        frames_.push_back({static_cast<std::uint32_t>(code_id), static_cast<std::int32_t>(offset)});
    }
    const auto depth = static_cast<std::uint32_t>(kept + count);
    live_frames_ += depth;
    live_frames_ -= thread->depth;
    thread->depth = depth;
    if (live_frames_ > limits_.live_frames) {
        return protocol_error("the current stacks have too many frames in all");
    }
    const model::StackMarks marks{(flags & kStackTruncated) != 0, (flags & kStackInvalid) != 0,
                                  (flags & kStackInGc) != 0};
    events_.stack(static_cast<std::uint32_t>(thread_id), marks, static_cast<std::uint32_t>(kept),
                  frames_);
    return {};
}

Status Decoder::decode_missed(Reader& reader) {
    const std::uint64_t thread_id = reader.varint();
    const std::uint64_t ns = reader.varint();
    if (reader.is_bad() || ns > kMaxDeltaNs) {
        return protocol_error("a record of missed time is damaged");
    }
    if (find_thread(thread_id) == nullptr) {
        return protocol_error("a record of missed time names an unknown thread");
    }
    events_.missed(static_cast<std::uint32_t>(thread_id), ns);
    return {};
}

Status Decoder::decode_share(Reader& reader) {
    const std::uint64_t thread_id = reader.varint();
    const std::uint64_t parts = reader.varint();
    if (reader.is_bad() || parts > kMaxThreads) {
        return protocol_error("a share record is damaged");
    }
    if (find_thread(thread_id) == nullptr) {
        return protocol_error("a share record names an unknown thread");
    }
    events_.share(static_cast<std::uint32_t>(thread_id), static_cast<std::uint32_t>(parts));
    return {};
}

Status Decoder::decode_cpu(Reader& reader) {
    const std::uint64_t thread_id = reader.varint();
    const std::uint64_t ns = reader.varint();
    if (reader.is_bad() || ns > kMaxDeltaNs) {
        return protocol_error("a CPU record is damaged");
    }
    if (find_thread(thread_id) == nullptr) {
        return protocol_error("a CPU record names an unknown thread");
    }
    events_.cpu(static_cast<std::uint32_t>(thread_id), ns);
    return {};
}

}  // namespace echion::stream
