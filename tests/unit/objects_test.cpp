#include "cpython/objects.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "cpython/attributes.h"
#include "cpython/dicts.h"
#include "fake_objects.h"
#include "rows.h"
#include "test_memory.h"

namespace echion::cpython {
namespace {

/// Every test runs for the layout of every version.
class Objects : public testing::TestWithParam<int> {
  protected:
    const Layout& layout_ = test::row_of(GetParam());
    test::TestMemory memory_;
    test::FakeObjects make_{memory_, layout_};
    ObjectReader objects_{memory_, layout_};
    std::array<char, 64> room_{};

    std::string text(Address str) {
        auto result = objects_.read_unicode(str, room_);
        return result ? std::string(result->utf8) : std::string("error: ") + result.error().what;
    }
    ErrorKind text_error(Address str) {
        auto result = objects_.read_unicode(str, room_);
        EXPECT_FALSE(result.has_value());
        return result ? ErrorKind::kSystem : result.error().kind;
    }
};

TEST_P(Objects, AStringThatEndsWhereMemoryEndsIsRead) {
    EXPECT_EQ(text(make_.make_str("short")), "short");
    EXPECT_EQ(text(make_.make_str("")), "");
}

TEST_P(Objects, AShortStringCostsOneReadOnceItsTypeIsKnown) {
    const Address str = make_.make_str("first");
    memory_.map(Address(0x7000000), 4096);
    ASSERT_EQ(text(str), "first");
    const std::size_t before = memory_.calls;
    // Not at the end of memory: the bytes behind it come along.
    const Address roomy(0x7000100);
    std::vector<std::byte> copy(layout_.unicode.ascii_data + 5);
    ASSERT_TRUE(memory_.read_bytes(str, copy.data(), copy.size()).has_value());
    memory_.write_bytes(roomy, copy.data(), copy.size());
    const std::size_t calls = memory_.calls;
    EXPECT_EQ(text(roomy), "first");
    EXPECT_EQ(memory_.calls - calls, 1U);
    EXPECT_GT(calls, before);
}

TEST_P(Objects, CodePointsOfEveryWidthBecomeUtf8) {
    EXPECT_EQ(text(make_.make_str({0xe9, 'x'}, 1, false)), "\xc3\xa9x");
    EXPECT_EQ(text(make_.make_str({0x20ac, 'x'}, 2, false)), "\xe2\x82\xacx");
    EXPECT_EQ(text(make_.make_str({0x1f40d, 'x'}, 4, false)), "\xf0\x9f\x90\x8dx");
    EXPECT_EQ(text(make_.make_str_apart({0x20ac, 'y'}, 2)), "\xe2\x82\xacy");
}

TEST_P(Objects, WhatIsNoScalarValueIsReplaced) {
    const std::string replaced = "\xef\xbf\xbd";
    EXPECT_EQ(text(make_.make_str({0xd800, 'a', 0xdfff}, 2, false)), replaced + "a" + replaced);
    EXPECT_EQ(text(make_.make_str({0x110000, 0xffffffff}, 4, false)), replaced + replaced);
    EXPECT_EQ(text(make_.make_str({0x80}, 1, true)), replaced);  // not ASCII, as it claims
}

TEST_P(Objects, LongTextIsCutBehindACodePoint) {
    const Address str = make_.make_str(std::vector<std::uint32_t>(1000, 0x20ac), 2, false);
    auto result = objects_.read_unicode(str, room_);
    ASSERT_TRUE(result.has_value());
    EXPECT_TRUE(result->truncated);
    EXPECT_EQ(result->utf8.size(), 63U);
}

TEST_P(Objects, AStringWithAHostileHeadIsRefused) {
    const Address str = make_.make_str("text");
    const UnicodeLayout& fields = layout_.unicode;
    for (const std::intptr_t length : {std::intptr_t{-1}, INTPTR_MAX / 2, INTPTR_MAX}) {
        memory_.write(str + fields.length, length);
        EXPECT_EQ(text_error(str), ErrorKind::kInvalid);
    }
    memory_.write(str + fields.length, std::intptr_t{4});
    for (const int kind : {0, 3, 5, 6, 7}) {
        memory_.write(str + fields.state, make_.unicode_state(kind, true, false));
        EXPECT_EQ(text_error(str), ErrorKind::kInvalid);
    }
    memory_.write(str + fields.state, make_.unicode_state(2, true, true));
    EXPECT_EQ(text_error(str), ErrorKind::kInvalid);
}

TEST_P(Objects, ALengthBeyondMappedMemoryIsUnreadable) {
    const Address str = make_.make_str("text");
    memory_.write(str + layout_.unicode.length, std::intptr_t{1} << 20);
    EXPECT_EQ(text_error(str), ErrorKind::kUnreadable);
}

TEST_P(Objects, OtherTypesAndWildPointersAreNoStrings) {
    EXPECT_EQ(text_error(make_.make_str({'a'}, 1, true, make_.dict_type)), ErrorKind::kInvalid);
    EXPECT_EQ(text_error(make_.make_str({'a'}, 1, true, Address(0x33330))), ErrorKind::kUnreadable);
    EXPECT_EQ(text_error(Address()), ErrorKind::kInvalid);
    EXPECT_EQ(text_error(Address(0x10001)), ErrorKind::kInvalid);
    EXPECT_EQ(text_error(Address(~std::uintptr_t{7})), ErrorKind::kUnreadable);
}

TEST_P(Objects, AHeapTypeIsNeverRemembered) {
    const Address type = make_.make_type(kTypeUnicode | kTypeHeap);
    const Address str = make_.make_str({'a'}, 1, true, type);
    ASSERT_EQ(text(str), "a");
    memory_.write(type + layout_.type.tp_flags, kTypeReady | kTypeHeap);  // freed and reused
    EXPECT_EQ(text_error(str), ErrorKind::kInvalid);
}

TEST_P(Objects, BytesAreCopiedOrCut) {
    std::array<std::byte, 4> room{};
    auto whole = objects_.read_bytes(make_.make_bytes("abc"), room);
    ASSERT_TRUE(whole.has_value());
    EXPECT_EQ(whole->bytes.size(), 3U);
    EXPECT_FALSE(whole->truncated);
    auto cut = objects_.read_bytes(make_.make_bytes("abcdefgh"), room);
    ASSERT_TRUE(cut.has_value());
    EXPECT_EQ(std::memcmp(cut->bytes.data(), "abcd", 4), 0);
    EXPECT_TRUE(cut->truncated);
    const Address hostile = make_.make_bytes("abc");
    memory_.write(hostile + layout_.bytes.ob_size, std::intptr_t{-3});
    EXPECT_FALSE(objects_.read_bytes(hostile, room).has_value());
}

TEST_P(Objects, IntegersUpTo64Bits) {
    for (const std::uint64_t value : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1} << 15,
                                      std::uint64_t{1} << 30, std::uint64_t{1} << 60, UINT64_MAX}) {
        EXPECT_EQ(objects_.read_unsigned(make_.make_int(value)).value_or(77), value);
    }
}

TEST_P(Objects, HostileIntegersAreRefused) {
    const Address number = make_.make_int(5);
    const IntegerLayout& fields = layout_.integer;
    const Offset head = has(fields.lv_tag) ? fields.lv_tag : fields.ob_size;
    for (const std::intptr_t hostile :
         {INTPTR_MAX, INTPTR_MIN, std::intptr_t{-1}, std::intptr_t{1} << 20}) {
        memory_.write(number + head, hostile);
        EXPECT_FALSE(objects_.read_unsigned(number).has_value()) << hostile;
    }
}

TEST_P(Objects, DictsAreWalkedAndSearched) {
    for (const bool unicode : {true, false}) {
        const Address value = make_.make_int(7);
        test::FakeObjects::Items items;
        for (int i = 0; i < 200; ++i) {
            items.emplace_back(make_.make_str("key" + std::to_string(i)), value + 16 * i);
        }
        items[20].second = Address();  // deleted
        items[21] = {};
        auto dict = DictView::read(objects_, make_.make_dict(items, unicode));
        ASSERT_TRUE(dict.has_value());
        EXPECT_EQ(dict->used(), 198U);
        EXPECT_EQ(dict->count(), 200U);
        std::vector<DictView::Entry> entries(300);
        EXPECT_EQ(dict->read_entries(objects_, 0, entries).value_or(0), 200U);
        EXPECT_EQ(entries[100].value, items[100].second);
        EXPECT_EQ(dict->find(objects_, "key150")->value(), items[150].second.value());
        EXPECT_TRUE(dict->find(objects_, "key20")->is_null());
        EXPECT_TRUE(dict->find(objects_, "key")->is_null());
        EXPECT_TRUE(dict->find(objects_, "key1500")->is_null());
    }
}

TEST_P(Objects, AHintMakesASearchTwoReads) {
    test::FakeObjects::Items items;
    for (int i = 0; i < 200; ++i) {
        items.emplace_back(make_.make_str("key" + std::to_string(i)), Address(0x5550 + 16 * i));
    }
    auto dict = DictView::read(objects_, make_.make_dict(items));
    FindHint hint;
    ASSERT_TRUE(dict->find(objects_, "key199", &hint).has_value());
    const std::size_t calls = memory_.calls;
    EXPECT_EQ(dict->find(objects_, "key199", &hint)->value(), items[199].second.value());
    EXPECT_EQ(memory_.calls - calls, 3U);  // key, its text, and the value
}

TEST_P(Objects, HostileDictsAreRefused) {
    const Address dict = make_.make_dict({{make_.make_str("a"), Address(0x5550)}});
    const DictKeysLayout& fields = layout_.dict_keys;
    const Address keys = *memory_.read_pointer(dict + layout_.dict.ma_keys);
    const auto refused = [&] { return !DictView::read(objects_, dict).has_value(); };
    ASSERT_FALSE(refused());
    for (const std::intptr_t count : {std::intptr_t{-1}, std::intptr_t{100}, INTPTR_MAX}) {
        memory_.write(keys + fields.dk_nentries, count);
        EXPECT_TRUE(refused()) << count;
    }
    memory_.write(keys + fields.dk_nentries, std::intptr_t{1});
    if (has(fields.dk_size)) {
        for (const std::intptr_t size : {std::intptr_t{0}, std::intptr_t{-8}, std::intptr_t{9},
                                         INTPTR_MAX / 2 + 1, INTPTR_MIN}) {
            memory_.write(keys + fields.dk_size, size);
            EXPECT_TRUE(refused()) << size;
        }
    } else {
        memory_.write(keys + fields.dk_log2_size, std::uint8_t{63});
        EXPECT_TRUE(refused());
        memory_.write(keys + fields.dk_log2_size, std::uint8_t{3});
        memory_.write(keys + fields.dk_log2_index_bytes, std::uint8_t{200});
        EXPECT_TRUE(refused());
        memory_.write(keys + fields.dk_log2_index_bytes, std::uint8_t{3});
        memory_.write(keys + fields.dk_kind, std::uint8_t{3});
        EXPECT_TRUE(refused());
        memory_.write(keys + fields.dk_kind, std::uint8_t{2});  // split, but without values
        EXPECT_TRUE(refused());
    }
    const Address used = make_.make_dict_of(make_.make_keys({}, true), Address(), 5);
    EXPECT_FALSE(DictView::read(objects_, used).has_value());
}

TEST_P(Objects, AHugeTableIsNotSearched) {
    test::FakeObjects::Items items(kMaxFindEntries + 1);
    auto dict = DictView::read(objects_, make_.make_dict(items));
    ASSERT_TRUE(dict.has_value());
    const std::size_t calls = memory_.calls;
    auto found = dict->find(objects_, "key");
    ASSERT_FALSE(found.has_value());
    EXPECT_EQ(found.error().kind, ErrorKind::kBoundExceeded);
    EXPECT_LE(memory_.calls - calls, 2U);
}

TEST_P(Objects, AttributesInAllTheirPlaces) {
    const Address keys = make_.make_keys({{make_.make_str("first"), Address()},
                                          {make_.make_str("second"), Address()},
                                          {make_.make_str("late"), Address()}},
                                         true, true);
    const Address type = make_.make_class(keys);
    const Address shared =
        make_.make_instance(type, keys, {Address(0x1110), Address(0x2220), Address()});
    EXPECT_EQ(find_attribute(objects_, shared, "second")->value(), 0x2220U);
    EXPECT_TRUE(find_attribute(objects_, shared, "late")->is_null());
    EXPECT_TRUE(find_attribute(objects_, shared, "other")->is_null());

    const Address dict = make_.make_dict({{make_.make_str("own"), Address(0x3330)}});
    const Address with_dict = make_.make_instance_with_dict(type, dict);
    EXPECT_EQ(find_attribute(objects_, with_dict, "own")->value(), 0x3330U);
    EXPECT_TRUE(find_attribute(objects_, with_dict, "first")->is_null());

    const Address split =
        make_.make_instance_with_dict(type, make_.make_split_dict(keys, {Address(0x4440)}));
    EXPECT_EQ(find_attribute(objects_, split, "first")->value(), 0x4440U);

    const Address empty = make_.make_instance_with_dict(type, Address());
    if (layout_.instance.inline_values_flag == 0) {
        EXPECT_TRUE(find_attribute(objects_, empty, "first")->is_null());
    }
}

TEST_P(Objects, OneFinderServesManyInstances) {
    const Address keys = make_.make_keys({{make_.make_str("name"), Address()}}, true, true);
    const Address type = make_.make_class(keys);
    AttributeFinder finder("name");
    ASSERT_TRUE(finder.find(objects_, make_.make_instance(type, keys, {Address(0x10)})));
    const std::size_t calls = memory_.calls;
    for (std::uintptr_t i = 1; i <= 10; ++i) {
        const Address one = make_.make_instance(type, keys, {Address(16 * i)});
        EXPECT_EQ(finder.find(objects_, one)->value(), 16 * i);
    }
    EXPECT_LE(memory_.calls - calls, 40U);
}

TEST_P(Objects, AnObjectWithoutNamespaceIsAnError) {
    EXPECT_FALSE(find_attribute(objects_, make_.make_int(1), "x").has_value());
    EXPECT_FALSE(find_attribute(objects_, Address(0x99990), "x").has_value());
}

TEST_P(Objects, ModulesAreFoundByName) {
    const Address globals = make_.make_dict({{make_.make_str("_active"), Address(0x7770)}});
    const Address module = make_.make_module(globals);
    const Address modules = make_.make_dict(
        {{make_.make_str("sys"), make_.make_int(1)}, {make_.make_str("threading"), module}});
    EXPECT_EQ(find_module(objects_, modules, "threading")->value(), module.value());
    EXPECT_TRUE(find_module(objects_, modules, "thread")->is_null());
    EXPECT_EQ(find_global(objects_, module, "_active")->value(), 0x7770U);
    EXPECT_FALSE(find_global(objects_, make_.make_module(make_.make_int(3)), "x").has_value());
}

INSTANTIATE_TEST_SUITE_P(Versions, Objects, testing::Range(8, 16), test::name_of_row);
INSTANTIATE_TEST_SUITE_P(FreeThreaded, Objects, testing::Values(113, 114, 115), test::name_of_row);

}  // namespace
}  // namespace echion::cpython
