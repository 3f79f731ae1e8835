#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/error.h"
#include "cpython/objects.h"
#include "memory/address.h"

namespace echion::cpython {

/// A key that find() looks for is a str of ASCII characters, at most this long.
constexpr std::size_t kMaxFindKeyBytes = 64;

/// Tables with more entries than this are not searched: a find() walks the entries, and the
/// dictionaries of interest (sys.modules, a module's, an instance's) are far smaller.
constexpr std::size_t kMaxFindEntries = std::size_t{1} << 16;

/// Where something was found the last time: asked first the next time, it makes a repeated find()
/// cost two small reads. Belongs to one dictionary and one key; a wrong one does no harm.
struct FindHint {
    std::size_t index = 0;
};

/// The entries of a PyDictKeysObject, in the order of insertion.
///
///      dk_refcnt .. dk_nentries | dk_indices: hash index | entries: {hash?, key, value} ...
///
/// CPython probes the hash index; a reader that cannot compute a str's (randomised) hash walks the
/// entries. Sources: Objects/dictobject.c, Objects/dict-common.h, Include/internal/pycore_dict.h.
class DictKeys {
  public:
    static constexpr std::size_t kNotFound = ~std::size_t{0};

    /// Errors: kUnreadable, kInvalid.
    static Result<DictKeys> read(ObjectReader& objects, Address keys);

    [[nodiscard]] Address address() const { return address_; }
    /// Entries in use, deleted ones included.
    [[nodiscard]] std::size_t count() const { return count_; }
    [[nodiscard]] bool is_split() const { return split_; }
    [[nodiscard]] Address entries() const { return entries_; }
    [[nodiscard]] std::size_t entry_bytes() const { return entry_bytes_; }
    [[nodiscard]] std::size_t key_offset() const { return key_offset_; }
    [[nodiscard]] std::size_t value_offset() const { return value_offset_; }

    /// Index of the entry whose key is a str equal to `key`, or kNotFound. Keys that cannot be read
    /// are passed over. kBoundExceeded: the key or the table is too long.
    Result<std::size_t> find(ObjectReader& objects, std::string_view key, FindHint* hint) const;

  private:
    Result<bool> holds(ObjectReader& objects, std::size_t index, std::string_view key) const;

    Address address_;
    Address entries_;
    std::size_t count_ = 0;
    std::size_t entry_bytes_ = 0;
    std::size_t key_offset_ = 0;
    std::size_t value_offset_ = 0;
    bool split_ = false;  // known from the keys in 3.11 and later only
};

/// Largest entry of any version, for buffers that hold a few.
constexpr std::size_t kMaxDictEntryBytes = 24;
/// Entries that DictView::read_entries() copies at a time.
constexpr std::size_t kMaxDictEntriesPerRead = 128;

/// A dict as it stood when read() looked; it may have changed since, so what comes out of it is to
/// be checked by whoever uses it.
class DictView {
  public:
    struct Entry {
        Address key;
        Address value;  ///< null: deleted, or a shared key that this dict has no value for
    };

    /// Reads the head of a dict (or of an instance of a subclass). Errors: kUnreadable, kInvalid.
    /// `known`: keys read a moment ago; not read again if they are this dict's.
    static Result<DictView> read(ObjectReader& objects, Address dict,
                                 const DictKeys* known = nullptr);

    [[nodiscard]] const DictKeys& keys() const { return keys_; }
    /// A split table: the keys belong to a class, and all its instances find them at the same
    /// index.
    [[nodiscard]] bool keys_are_shared() const { return !values_.is_null(); }
    /// Where the value of the entry at `index` is stored.
    [[nodiscard]] Address value_place(std::size_t index) const;

    /// Length of the dict.
    [[nodiscard]] std::size_t used() const { return used_; }
    /// Entries to walk, holes included.
    [[nodiscard]] std::size_t count() const { return keys_.count(); }

    /// Copies entries from index `from` on, as many as fit or are left; returns how many. Bounded
    /// by the length of `into`. Errors: kUnreadable.
    Result<std::size_t> read_entries(ObjectReader& objects, std::size_t from,
                                     std::span<Entry> into) const;

    /// The value of the str key `key`; null when there is none. Errors as for DictKeys::find.
    Result<Address> find(ObjectReader& objects, std::string_view key,
                         FindHint* hint = nullptr) const;

  private:
    DictKeys keys_;
    Address values_;  // of a split table: the first value; else null
    std::size_t used_ = 0;
};

}  // namespace echion::cpython
