#pragma once

#include <cstdint>
#include <utility>

#include "memory/address.h"
#include "memory/reader.h"

namespace echion::code {

/// The number that an interpreter of CPython 3.13 and later gives to its next code object
/// (PyInterpreterState.func_state.next_version; Objects/codeobject.c, init_code). While it stays
/// the same no code object is made, so that none can take another's place: what has been compared
/// once need not be compared again. Other things may count it up too, which costs a comparison.
/// (3.12 counts in a variable that no symbol tells, and leaves this one as it is.)
///
/// Where the counter lies is not stated by the target, as most other offsets are. So it is believed
/// only once it has kept up with code objects whose own numbers are known, and never again once it
/// has not. One thread at a time.
class VersionCounter {
  public:
    VersionCounter() = default;

    /// Where it is; null: there is none. It has to be memory that is never unmapped.
    void watch(Address counter) {
        if (counter == refused_) {
            counter = Address();
        }
        if (counter != counter_) {
            *this = VersionCounter(counter, refused_);
        }
    }

    /// Whether its numbers have begun anew, as the interpreter has: restart() is due. One that has
    /// not been believed yet may say so once.
    bool has_begun_anew(MemoryReader& reader) { return has_fallen_to(read(reader)); }

    /// To be called before the code objects are copied that look number `look` compares. Whether
    /// the numbers have begun anew.
    bool begin_look(MemoryReader& reader, std::uint64_t look) {
        std::uint32_t value = read(reader);
        if (has_fallen_to(value)) {
            return true;
        }
        value = counter_.is_null() ? 0 : value;
        last_ = value != 0 ? value : last_;
        if (value != value_ || value == 0) {
            value_ = value;
            since_look_ = look;
        }
        if (first_ == 0) {
            first_ = value;
        }
        return false;
    }
    /// What was compared before look number `look` counts no more.
    void void_looks_before(std::uint64_t look) { since_look_ = look; }
    /// The same, and the interpreter starts anew.
    void restart(std::uint64_t look) {
        since_look_ = look;
        value_ = last_ = first_ = last_witness_ = 0;
    }
    /// Whether what look number `look` compared was still so when this look began.
    [[nodiscard]] bool has_stayed_since(std::uint64_t look) const {
        return witnesses_ >= kWitnesses && value_ != 0 && look >= since_look_;
    }
    /// Whether the counter is what it was when this look began. Asked after all copies, it says
    /// that has_stayed_since() holds for them.
    [[nodiscard]] bool stays(MemoryReader& reader) const {
        return value_ != 0 && read(reader) == value_;
    }
    /// A code object has been read whose number is `version`.
    void note(MemoryReader& reader, std::uint32_t version) {
        if (counter_.is_null() || first_ == 0) {
            return;
        }
        const std::uint32_t next = read(reader);
        if (next != 0 && next < last_) {
            return;  // it has begun anew: the next look will tell
        }
        if (next != 0 && next <= version) {
            refuse();
            return;
        }
        // One of the last that have been made, since the counter was first read.
        if (version >= first_ && version != last_witness_ && next - version <= kRecent) {
            last_witness_ = version;
            witnesses_ += witnesses_ < kWitnesses;
        }
    }

  private:
    // Code objects that have to be made while the counter is watched, each among the last.
    static constexpr std::uint32_t kWitnesses = 4;
    static constexpr std::uint32_t kRecent = 64;

    VersionCounter(Address counter, Address refused) : counter_(counter), refused_(refused) {}

    /// That is no such counter.
    void refuse() { *this = VersionCounter(Address(), counter_); }
    bool has_fallen_to(std::uint32_t value) {
        if (value == 0 || value >= last_) {
            return false;
        }
        if (witnesses_ < kWitnesses && std::exchange(has_fallen_, true)) {
            refuse();
            return false;
        }
        return true;
    }
    std::uint32_t read(MemoryReader& reader) const {
        return counter_.is_null() ? 0 : reader.read_value<std::uint32_t>(counter_).value_or(0);
    }

    Address counter_;
    Address refused_;  // where none is
    bool has_fallen_ = false;
    std::uint32_t value_ = 0;  // 0: unknown, or the numbers have run out
    std::uint32_t last_ = 0;   // the last one that was not 0
    std::uint32_t first_ = 0;
    std::uint32_t last_witness_ = 0;
    std::uint32_t witnesses_ = 0;
    std::uint64_t since_look_ = 0;
};

}  // namespace echion::code
