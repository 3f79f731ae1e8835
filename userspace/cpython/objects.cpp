#include "cpython/objects.h"

#include <algorithm>
#include <cstring>

#include "base/utf8.h"
#include "memory/page_batch.h"

namespace echion::cpython {

namespace {

/// Appends code points to a buffer as UTF-8, whole ones only.
class Utf8Writer {
  public:
    explicit Utf8Writer(std::span<char> into) : into_(into) {}

    [[nodiscard]] std::size_t free_bytes() const { return into_.size() - used_; }
    [[nodiscard]] std::string_view text() const { return {into_.data(), used_}; }

    /// False, and nothing written, when it does not fit.
    bool append(std::uint32_t code_point) {
        const EncodedCodePoint encoded = encode_utf8(code_point);
        if (free_bytes() < encoded.size_bytes) {
            return false;
        }
        std::memcpy(into_.data() + used_, encoded.bytes.data(), encoded.size_bytes);
        used_ += encoded.size_bytes;
        return true;
    }

  private:
    std::span<char> into_;
    std::size_t used_ = 0;
};

/// Appends the code points of `data`; false when the writer is full.
bool append_code_points(Utf8Writer& writer, const UnicodeHead& head,
                        std::span<const std::byte> data) {
    for (std::size_t at = 0; at + head.kind <= data.size(); at += head.kind) {
        std::uint32_t code_point = 0;
        switch (head.kind) {
            case 1:
                code_point = load<std::uint8_t>(data.data(), at);
                if (head.ascii && code_point >= 0x80) {
                    code_point = UINT32_MAX;  // it said that it was ASCII: shown as garbage
                }
                break;
            case 2:
                code_point = load<std::uint16_t>(data.data(), at);
                break;
            default:
                code_point = load<std::uint32_t>(data.data(), at);
        }
        if (!writer.append(code_point)) {
            return false;
        }
    }
    return true;
}

unsigned bits(std::uint32_t word, unsigned shift, unsigned count) {
    return (word >> shift) & ((1U << count) - 1U);
}

}  // namespace

Result<UnicodeHead> parse_unicode_head(const Layout& layout, Address object,
                                       std::span<const std::byte> copy) {
    const UnicodeLayout& fields = layout.unicode;
    if (copy.size() < static_cast<std::size_t>(fields.ascii_data)) {
        return fail(ErrorKind::kInvalid, "read a str: its head is cut short");
    }
    const auto length = load<std::intptr_t>(copy.data(), fields.length);
    const auto state = load<std::uint32_t>(copy.data(), fields.state);
    UnicodeHead head;
    head.type = load_address(copy.data(), layout.object.ob_type);
    head.kind = static_cast<std::uint8_t>(bits(state, fields.kind_shift, fields.kind_bits));
    head.compact = bits(state, fields.compact_shift, 1) != 0;
    head.ascii = bits(state, fields.ascii_shift, 1) != 0;
    // Kind 0 is a legacy string of 3.8 to 3.11 that nobody has looked at yet: no data to read.
    if (head.kind != 1 && head.kind != 2 && head.kind != 4) {
        return fail(ErrorKind::kInvalid, "read a str: no such kind");
    }
    if (head.ascii && head.kind != 1) {
        return fail(ErrorKind::kInvalid, "read a str: ASCII of another kind");
    }
    if (length < 0 || static_cast<std::size_t>(length) > kMaxObjectLength / head.kind) {
        return fail(ErrorKind::kInvalid, "read a str: no such length");
    }
    head.length = static_cast<std::size_t>(length);
    if (head.compact) {
        head.data = object + (head.ascii ? fields.ascii_data : fields.compact_data);
    } else if (copy.size() >= fields.data_any + sizeof(void*)) {
        // An instance of a subclass, or a string made by an API of old: its data is elsewhere.
        head.data = load_address(copy.data(), fields.data_any);
        if (head.data.is_null()) {
            return fail(ErrorKind::kInvalid, "read a str: no data");
        }
    }
    return head;
}

Result<Text> ObjectReader::read_unicode(Address object, std::span<char> into) {
    if (!is_object_address(object)) {
        return fail(ErrorKind::kInvalid, "read a str: not an object's address");
    }
    // The head, and speculatively what follows: most names are short. Two requests, so that a
    // string at the end of mapped memory is read as well.
    std::array<std::byte, 256> copy;
    const std::size_t head_bytes = layout_.unicode.ascii_data;
    const ReadRequest requests[] = {
        {object, copy.data(), head_bytes},
        {object + head_bytes, copy.data() + head_bytes, copy.size() - head_bytes}};
    const std::size_t done = memory_.read(requests);
    if (done == 0) {
        return fail(ErrorKind::kUnreadable, "read a str");
    }
    const std::span<const std::byte> known(copy.data(), done == 2 ? copy.size() : head_bytes);
    auto head = parse_unicode_head(layout_, object, known);
    if (!head) {
        return tl::unexpected(head.error());
    }
    if (auto status = check_type(head->type, kTypeUnicode); !status) {
        return tl::unexpected(status.error());
    }
    if (head->data.is_null()) {
        auto data = memory_.read_pointer(object + layout_.unicode.data_any);
        if (!data || data->is_null()) {
            return fail(ErrorKind::kUnreadable, "read a str: its data");
        }
        head->data = *data;
    }

    Utf8Writer writer(into);
    std::size_t left = head->length;  // code points
    Address from = head->data;
    if (from - object < known.size()) {
        const std::size_t offset = from - object;
        const std::size_t count = std::min((known.size() - offset) / head->kind, left);
        if (!append_code_points(writer, *head, known.subspan(offset, count * head->kind))) {
            return Text{writer.text(), true};
        }
        left -= count;
        from = from + count * head->kind;
    }
    while (left > 0) {
        // Each code point takes a byte at least: what cannot fit is not read.
        const std::size_t count = std::min({left, writer.free_bytes(), copy.size() / head->kind});
        if (count == 0) {
            return Text{writer.text(), true};
        }
        if (auto status = memory_.read_bytes(from, copy.data(), count * head->kind); !status) {
            return tl::unexpected(status.error());
        }
        if (!append_code_points(writer, *head, {copy.data(), count * head->kind})) {
            return Text{writer.text(), true};
        }
        left -= count;
        from = from + count * head->kind;
    }
    return Text{writer.text(), false};
}

Result<BytesCopy> ObjectReader::read_bytes(Address object, std::span<std::byte> into) {
    if (!is_object_address(object)) {
        return fail(ErrorKind::kInvalid, "read bytes: not an object's address");
    }
    std::array<std::byte, 64> head;
    const std::size_t head_bytes = layout_.bytes.ob_sval;
    if (head_bytes > head.size()) {
        return fail(ErrorKind::kInvalid, "read bytes: the layout");
    }
    if (auto status = memory_.read_bytes(object, head.data(), head_bytes); !status) {
        return tl::unexpected(status.error());
    }
    const Address type = load_address(head.data(), layout_.object.ob_type);
    if (auto status = check_type(type, kTypeBytes); !status) {
        return tl::unexpected(status.error());
    }
    const auto size = load<std::intptr_t>(head.data(), layout_.bytes.ob_size);
    if (size < 0 || static_cast<std::size_t>(size) > kMaxObjectLength) {
        return fail(ErrorKind::kInvalid, "read bytes: no such length");
    }
    const std::size_t count = std::min(static_cast<std::size_t>(size), into.size());
    if (count > 0) {
        if (auto status = memory_.read_bytes(object + head_bytes, into.data(), count); !status) {
            return tl::unexpected(status.error());
        }
    }
    return BytesCopy{into.first(count), count < static_cast<std::size_t>(size)};
}

Result<std::uint64_t> ObjectReader::read_unsigned(Address object) {
    if (!is_object_address(object)) {
        return fail(ErrorKind::kInvalid, "read an int: not an object's address");
    }
    const IntegerLayout& fields = layout_.integer;
    // An int always has room for one digit; more are read when its head says that they exist.
    std::array<std::byte, 64> copy;
    const std::size_t head_bytes = fields.ob_digit + fields.digit_bytes;
    if (head_bytes > copy.size()) {
        return fail(ErrorKind::kInvalid, "read an int: the layout");
    }
    if (auto status = memory_.read_bytes(object, copy.data(), head_bytes); !status) {
        return tl::unexpected(status.error());
    }
    const Address type = load_address(copy.data(), layout_.object.ob_type);
    if (auto status = check_type(type, kTypeLong); !status) {
        return tl::unexpected(status.error());
    }
    bool negative = false;
    std::size_t digits = 0;
    if (has(fields.lv_tag)) {
        // The two lowest bits are the sign: 0 positive, 1 zero, 2 negative; the third is unused
        // (CPython 3.12 Include/cpython/longintrepr.h).
        const auto tag = load<std::uintptr_t>(copy.data(), fields.lv_tag);
        negative = (tag & 3U) == 2;
        digits = (tag & 3U) == 1 ? 0 : tag >> 3U;
    } else {
        const auto size = load<std::intptr_t>(copy.data(), fields.ob_size);
        negative = size < 0;
        digits = static_cast<std::size_t>(size);
    }
    const std::size_t digits_bound = (64U + fields.digit_bits - 1U) / fields.digit_bits;
    std::array<std::byte, 16> room{};
    const std::size_t digit_bytes = fields.digit_bytes;
    if (negative || digits > digits_bound || digits * digit_bytes > room.size()) {
        return fail(ErrorKind::kBoundExceeded, "read an int");
    }
    if (digits > 1) {
        if (auto status =
                memory_.read_bytes(object + fields.ob_digit, room.data(), digits * digit_bytes);
            !status) {
            return tl::unexpected(status.error());
        }
    } else if (digits == 1) {
        std::memcpy(room.data(), copy.data() + fields.ob_digit, digit_bytes);
    }
    std::uint64_t value = 0;
    for (std::size_t i = digits; i > 0; --i) {
        const std::uint64_t digit = digit_bytes == 2
                                        ? load<std::uint16_t>(room.data(), (i - 1) * digit_bytes)
                                        : load<std::uint32_t>(room.data(), (i - 1) * digit_bytes);
        if (value > (UINT64_MAX >> fields.digit_bits) || (digit >> fields.digit_bits) != 0) {
            return fail(ErrorKind::kBoundExceeded, "read an int");
        }
        value = (value << fields.digit_bits) | digit;
    }
    return value;
}

Result<Address> ObjectReader::read_type_of(Address object) {
    if (!is_object_address(object)) {
        return fail(ErrorKind::kInvalid, "read an object's type: not an object's address");
    }
    return memory_.read_pointer(object + layout_.object.ob_type);
}

Result<TypeFacts> ObjectReader::read_type(Address type) {
    std::array<std::byte, 512> copy;
    const std::size_t size = layout_.type.size;
    if (!is_object_address(type) || size > copy.size()) {
        return fail(ErrorKind::kInvalid, "read a type: not an object's address");
    }
    if (auto status = memory_.read_bytes(type, copy.data(), size); !status) {
        return tl::unexpected(status.error());
    }
    TypeFacts facts;
    facts.type = type;
    facts.flags = load<std::uintptr_t>(copy.data(), layout_.type.tp_flags);
    facts.basic_size = load<std::intptr_t>(copy.data(), layout_.type.tp_basicsize);
    facts.dict_offset = load<std::intptr_t>(copy.data(), layout_.type.tp_dictoffset);
    if ((facts.flags & kTypeReady) == 0 || facts.basic_size < layout_.object.size) {
        return fail(ErrorKind::kInvalid, "read a type: not a type");
    }
    return facts;
}

Status ObjectReader::check_type(Address type, std::uintptr_t flag) {
    for (const StaticType& known : static_types_) {
        if (known.type == type && (known.flags & flag) != 0) {
            return {};
        }
    }
    auto facts = read_type(type);
    if (!facts) {
        return tl::unexpected(facts.error());
    }
    if ((facts->flags & flag) == 0) {
        return fail(ErrorKind::kInvalid, "read an object: it has another type");
    }
    if ((facts->flags & kTypeHeap) == 0) {
        static_types_[next_static_type_] = {type, facts->flags};
        next_static_type_ = (next_static_type_ + 1) % static_types_.size();
    }
    return {};
}

Address read_word(ObjectReader& objects, Address from) {
    if (!is_object_address(from)) {
        return {};
    }
    const auto word = objects.memory().read_pointer(from);
    return word ? *word : Address();
}

Result<std::string_view> read_c_string(MemoryReader& memory, Address from, std::span<char> into) {
    std::size_t size = 0;
    while (size < into.size()) {
        const Address next = from + size;
        const std::size_t in_page = kPageBytes - (next.value() & (kPageBytes - 1));
        const std::size_t part = std::min(into.size() - size, in_page);
        if (auto status = memory.read_bytes(next, into.data() + size, part); !status) {
            return tl::unexpected(status.error());
        }
        const std::size_t length = ::strnlen(into.data() + size, part);
        size += length;
        if (length < part) {
            break;
        }
    }
    return std::string_view(into.data(), size);
}

void read_each(MemoryReader& memory, std::span<const ReadRequest> requests,
               std::span<bool> copied) {
    std::size_t at = 0;
    while (at < requests.size()) {
        const std::size_t done = std::min(memory.read(requests.subspan(at)), requests.size() - at);
        std::fill_n(copied.begin() + static_cast<std::ptrdiff_t>(at), done, true);
        at += done;
        if (at < requests.size()) {
            copied[at++] = false;
        }
    }
}

}  // namespace echion::cpython
