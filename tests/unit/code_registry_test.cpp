#include "code/code_registry.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "base/clock.h"
#include "fake_objects.h"
#include "rows.h"
#include "sampling/code_writer.h"
#include "stream/decoder.h"
#include "stream/encoder.h"
#include "stream/ring.h"
#include "test_memory.h"

namespace echion::code {
namespace {

constexpr std::size_t kArenaBytes = 1 << 20;

/// What the program at the other end knows of each id.
class Definitions final : public model::ProfileEvents {
  public:
    struct Code {
        std::string name, qualified_name, file_name;
        std::uint32_t first_line = 0;
        std::size_t table_bytes = 0;
    };
    std::map<std::uint32_t, Code> codes;
    std::size_t count = 0;

    void start(std::uint64_t, model::PythonVersion) override {}
    void tick(std::uint64_t) override {}
    void lost(std::uint64_t, std::uint64_t) override {}
    void code(std::uint32_t id, const model::CodeView& code) override {
        ++count;
        codes[id] = {std::string(code.name), std::string(code.qualified_name),
                     std::string(code.file_name), code.first_line, code.line_table.size()};
    }
    void thread(std::uint32_t, std::int64_t, std::uint32_t, std::string_view) override {}
    void thread_end(std::uint32_t) override {}
    void stack(std::uint32_t, model::StackMarks, std::uint32_t,
               std::span<const model::FrameLocation>) override {}
    void cpu(std::uint32_t, std::uint64_t) override {}
    void missed(std::uint32_t, std::uint64_t) override {}
    void share(std::uint32_t, std::uint32_t) override {}
};

/// A registry over made-up code objects, whose definitions go through a real ring.
class CodeRegistryOf : public testing::TestWithParam<int> {
  protected:
    void SetUp() override {
        view_.layout = &layout_;
        memory_.fill_gaps();
        code_type_ = make_.make_type(0);
        view_.code_type = code_type_;
        auto registry = CodeRegistry::make(view_);
        ASSERT_TRUE(registry.has_value());
        codes_ = std::move(*registry);
        batch_ = PageBatch::make(kArenaBytes).value();
        const UniqueFd fd = stream::make_ring().value();
        ring_ = stream::RingProducer(stream::RingMapping::open(fd.get()).value());
        consumer_ = stream::RingConsumer(stream::RingMapping::open(fd.get()).value());
        encoder_.begin_start(1, 3, static_cast<std::uint8_t>(GetParam()), 0);
        encoder_.label(CodeRegistry::kUnknownCode, "<unknown>");
        ASSERT_TRUE(encoder_.commit());
        tick();
    }

    static std::size_t at(cpython::Offset offset) { return static_cast<std::size_t>(offset); }

    Address make_code(const std::string& name, std::int32_t first_line = 1) {
        const Address code = memory_.allocate(at(layout_.code.size));
        write_code(code, make_.make_str(name), first_line);
        return code;
    }
    /// Puts a code object into the place of another.
    void write_code(Address code, Address name, std::int32_t first_line) {
        make_.write_code(code, {code_type_, name, file_, table_, first_line, version_});
        version_ += cpython::has(layout_.code.version);
    }
    /// Writes another text of the same length into a str.
    void overwrite(Address str, const std::string& text) {
        memory_.write_bytes(str + at(layout_.unicode.ascii_data), text.data(), text.size());
    }

    /// Begins another tick, whose looks are new ones.
    void tick() {
        codes_.begin_tick();
        codes_.begin_look(memory_);
        encoder_.begin_tick(0);
    }
    void end_tick() {
        ASSERT_TRUE(encoder_.commit());
        drain();
    }
    void drain() {
        for (;;) {
            const auto size = consumer_.read_batch(buffer_);
            ASSERT_TRUE(size.has_value());
            if (*size == 0) {
                return;
            }
            const auto status = decoder_.decode({buffer_.data(), *size});
            ASSERT_TRUE(status.has_value()) << status.error().what;
        }
    }
    std::uint32_t find(Address code) { return codes_.find_id(memory_, sink_, code); }
    /// Looks at code objects the way the sampler does: copied with the stack where they were in the
    /// last one (`requested`), else afterwards.
    void look(const std::vector<Address>& codes, bool requested) {
        codes_.begin_look(memory_);
        batch_.reset();
        if (requested) {
            codes_.request(batch_, codes);
            codes_.add_requested(batch_);
        }
        batch_.run(memory_);
        const std::uint64_t calls = memory_.calls;
        codes_.check(memory_, batch_, frames_of(codes), {}, 0);
        reads_behind_ = memory_.calls - calls;
    }
    std::uint32_t look_and_find(Address code, bool requested = true) {
        look({code}, requested);
        return find(code);
    }
    bool was_known(Address code, std::int64_t at_ns) {
        look({code}, false);
        return codes_.were_known(frames_of({code}), at_ns);
    }
    static std::vector<cpython::RawFrame> frames_of(const std::vector<Address>& codes) {
        std::vector<cpython::RawFrame> frames;
        for (const Address code : codes) {
            frames.push_back({code, 0});
        }
        return frames;
    }
    /// What the other end calls an id, once the open tick has been written.
    std::string name_of(std::uint32_t id) {
        end_tick();
        codes_.begin_tick();
        encoder_.begin_tick(0);
        return known_.codes.count(id) != 0 ? known_.codes[id].name : "(not defined)";
    }

    const cpython::Layout& layout_ = test::row_of(GetParam());
    test::TestMemory memory_;
    test::FakeObjects make_{memory_, layout_};
    Address file_ = make_.make_str("/app/main.py");
    Address table_ = make_.make_bytes("abcdef");
    Address code_type_;
    cpython::RuntimeView view_;
    CodeRegistry codes_;
    stream::RingProducer ring_;
    stream::RingConsumer consumer_;
    stream::Encoder encoder_{ring_};
    struct StreamSink final : CodeSink {
        explicit StreamSink(stream::Encoder& into) : encoder(into) {}
        void define(const CodeDefinition& code) override { sampling::write_code(encoder, code); }
        stream::Encoder& encoder;
    };
    StreamSink sink_{encoder_};
    Definitions known_;
    stream::Decoder decoder_{known_};
    std::vector<std::byte> buffer_ = std::vector<std::byte>(stream::kMaxBatchBytes);
    PageBatch batch_;
    std::uint64_t reads_behind_ = 0;  // that the last check() made
    std::uint32_t version_ = 100;     // of the next code object
};

INSTANTIATE_TEST_SUITE_P(Python3, CodeRegistryOf, testing::Values(8, 10, 11, 13, 14, 15, 113, 114),
                         test::name_of_row);

TEST_P(CodeRegistryOf, DefinesEachCodeOnce) {
    const Address one = make_code("one", 10);
    const Address two = make_code("two", 20);
    const std::uint32_t id = find(one);
    EXPECT_NE(find(two), id);
    EXPECT_EQ(find(one), id);
    end_tick();
    tick();
    EXPECT_EQ(find(one), id);
    end_tick();
    EXPECT_EQ(known_.count, 3U) << "the two, and <unknown>";
    EXPECT_EQ(known_.codes[id].name, "one");
    EXPECT_EQ(known_.codes[id].qualified_name, cpython::has(layout_.code.qualname) ? "one" : "");
    EXPECT_EQ(known_.codes[id].file_name, "/app/main.py");
    EXPECT_EQ(known_.codes[id].first_line, 10U);
    EXPECT_EQ(known_.codes[id].table_bytes, 6U);
}

TEST_P(CodeRegistryOf, ComparesEachTimeThatItLooksAndKeepsWhatIsTheSame) {
    const Address code = make_code("steady");
    const std::uint32_t id = find(code);
    const std::uint64_t reads = codes_.reads();
    EXPECT_EQ(look_and_find(code), id);
    EXPECT_EQ(look_and_find(code, false), id);
    EXPECT_EQ(codes_.counts().revalidated, 2U);
    EXPECT_EQ(codes_.counts().replaced, 0U);
    EXPECT_EQ(codes_.reads(), reads);
}

TEST_P(CodeRegistryOf, WhatWasCopiedWithTheStackIsNotReadAgain) {
    std::vector<Address> codes;
    for (int i = 0; i < 40; ++i) {
        codes.push_back(make_code("function_" + std::to_string(i)));
        find(codes.back());
    }
    look(codes, true);
    EXPECT_EQ(reads_behind_, 0U);
    EXPECT_EQ(codes_.counts().revalidated, codes.size());
    look(codes, false);
    EXPECT_EQ(reads_behind_, 1U) << "all in one go";
    EXPECT_EQ(codes_.counts().revalidated, 2 * codes.size());
}

TEST_P(CodeRegistryOf, ComparesMoreThanARoundHolds) {
    std::vector<Address> codes;
    for (std::size_t i = 0; i < 2 * PageBatch::kMaxRequests; ++i) {
        codes.push_back(make_code("function_" + std::to_string(i)));
        find(codes.back());
        if (i % 100 == 0) {
            end_tick();
            tick();
        }
    }
    look(codes, true);
    EXPECT_EQ(codes_.counts().revalidated, codes.size());
    EXPECT_EQ(codes_.counts().replaced, 0U);
    const std::uint64_t reads = codes_.reads();
    for (const Address code : codes) {
        find(code);
    }
    EXPECT_EQ(codes_.reads(), reads);
}

TEST_P(CodeRegistryOf, ACodeInTheOldOnesPlaceGetsItsOwnName) {
    for (const bool requested : {true, false}) {
        const Address code = make_code("before", 10);
        const std::uint32_t id = find(code);
        EXPECT_EQ(name_of(id), "before");
        const std::uint64_t replaced = codes_.counts().replaced;
        write_code(code, make_.make_str("after"), 10);
        const std::uint32_t now = look_and_find(code, requested);
        EXPECT_NE(now, id) << "a stack with the old id would look unchanged";
        EXPECT_EQ(name_of(now), "after");
        EXPECT_EQ(codes_.counts().replaced, replaced + 1);
    }
}

TEST_P(CodeRegistryOf, TheSameFunctionAtAnotherLineIsAnotherCode) {
    const Address name = make_.make_str("same");
    const Address code = memory_.allocate(at(layout_.code.size));
    write_code(code, name, 10);
    const std::uint32_t id = find(code);
    write_code(code, name, 11);
    const std::uint32_t now = look_and_find(code);
    EXPECT_NE(now, id);
    EXPECT_EQ(name_of(now), "same");
    EXPECT_EQ(known_.codes[now].first_line, 11U);
}

TEST_P(CodeRegistryOf, SeesOtherTextsBehindTheSamePointers) {
    // A dropped function's memory is used again, each piece for what it was before: only the
    // contents tell, or (3.12 and later) the code object's number.
    const std::pair<const char*, const char*> texts[] = {{"name_1", "name_2"},
                                                         {"/a/file_1.py", "/a/file_2.py"}};
    const Address name = make_.make_str(texts[0].first);
    file_ = make_.make_str(texts[1].first);
    const Address code = memory_.allocate(at(layout_.code.size));
    write_code(code, name, 10);
    std::uint32_t id = find(code);
    EXPECT_EQ(name_of(id), texts[0].first);
    overwrite(name, texts[0].second);
    write_code(code, name, 10);
    EXPECT_NE(look_and_find(code), id);
    id = find(code);
    EXPECT_EQ(name_of(id), texts[0].second);
    overwrite(file_, texts[1].second);
    write_code(code, name, 10);
    EXPECT_NE(look_and_find(code, false), id);
    id = find(code);
    EXPECT_EQ(name_of(id), texts[0].second);
    EXPECT_EQ(known_.codes[id].file_name, texts[1].second);
    memory_.write_bytes(table_ + at(layout_.bytes.ob_sval), "ABCDEF", 6);
    write_code(code, name, 10);
    EXPECT_NE(look_and_find(code), id);
    EXPECT_EQ(codes_.counts().replaced, 3U);
}

TEST_P(CodeRegistryOf, WhatLiesTogetherIsCopiedTogether) {
    std::vector<Address> codes;
    for (int i = 0; i < 10; ++i) {
        codes.push_back(make_code("function_" + std::to_string(i)));
        find(codes.back());
    }
    codes_.begin_look(memory_);
    batch_.reset();
    codes_.request(batch_, codes);
    codes_.add_requested(batch_);
    // What lies on one page is one range; what lies across two, such as a few of them, is its own.
    EXPECT_LT(PageBatch::kMaxRequests - batch_.free_requests(), codes.size());
}

TEST_P(CodeRegistryOf, WhatIsNeverFreedIsNotCompared) {
    const Address code = make_code("frozen");
    const Address other = make_code("other");
    codes_.set_static_range(code, at(layout_.code.size));
    const std::uint32_t id = find(code);
    find(other);
    EXPECT_EQ(look_and_find(code), id);
    EXPECT_EQ(look_and_find(code, false), id);
    EXPECT_EQ(codes_.counts().revalidated, 0U);
    look_and_find(other);
    EXPECT_EQ(codes_.counts().revalidated, 1U);
}

TEST_P(CodeRegistryOf, TellsWhatWasKnownAtAMoment) {
    const std::int64_t before_ns = monotonic_ns();
    const Address code = make_code("one");
    EXPECT_FALSE(was_known(code, monotonic_ns())) << "never met";
    find(code);
    EXPECT_FALSE(was_known(code, before_ns)) << "only read since";
    EXPECT_TRUE(was_known(code, monotonic_ns()));
    write_code(code, make_.make_str("two"), 1);
    EXPECT_FALSE(was_known(code, monotonic_ns())) << "another one by now";
    find(code);
    // Without a number of its own, "two" can be a third one that looks the same.
    EXPECT_EQ(was_known(code, monotonic_ns()), cpython::has(layout_.code.version));
    EXPECT_TRUE(was_known(code, monotonic_ns() + 2 * kNanosPerSecond)) << "none came for long";
}

TEST_P(CodeRegistryOf, WithoutANumberOfItsOwnItIsComparedByItsTexts) {
    version_ = 0;  // frozen code; or all numbers have been given
    const Address name = make_.make_str("before");
    const Address code = memory_.allocate(at(layout_.code.size));
    write_code(code, name, 10);
    const std::uint32_t id = find(code);
    EXPECT_EQ(look_and_find(code), id);
    overwrite(name, "behind");
    const std::uint32_t now = look_and_find(code);
    EXPECT_NE(now, id);
    EXPECT_EQ(name_of(now), "behind");
}

/// The counter that gives code objects their numbers.
class VersionCounterOf : public CodeRegistryOf {
  protected:
    void SetUp() override {
        CodeRegistryOf::SetUp();
        count_to(version_);
        codes_.set_version_counter(counter_);
        codes_.begin_look(memory_);
        for (int i = 0; i < 6; ++i) {
            made_.push_back(make_code("function_" + std::to_string(i)));
        }
    }
    void count_to(std::uint32_t version) { memory_.write(counter_, version); }
    void meet_all() {
        for (const Address code : made_) {
            find(code);
        }
    }
    /// How many of them a look compares.
    std::uint64_t compared() {
        const std::uint64_t before = codes_.counts().revalidated;
        look(made_, true);
        return codes_.counts().revalidated - before;
    }

    Address counter_ = memory_.allocate(sizeof(std::uint32_t));
    std::vector<Address> made_;
};

INSTANTIATE_TEST_SUITE_P(Python3, VersionCounterOf, testing::Values(13, 14, 15));

TEST_P(VersionCounterOf, NothingIsComparedWhileNoCodeIsMade) {
    count_to(version_);
    meet_all();
    EXPECT_EQ(compared(), made_.size()) << "the counter has moved since the last look";
    EXPECT_EQ(compared(), 0U);
    EXPECT_EQ(reads_behind_, 1U) << "the counter, once more";
    EXPECT_TRUE(codes_.were_known(frames_of(made_), monotonic_ns()));
    for (const Address code : made_) {
        const std::size_t calls = memory_.calls;
        find(code);
        EXPECT_EQ(memory_.calls, calls);
    }
}

TEST_P(VersionCounterOf, ACodeThatIsMadeIsSeen) {
    count_to(version_);
    meet_all();
    compared();
    ASSERT_EQ(compared(), 0U);
    const std::uint32_t id = find(made_[0]);
    write_code(made_[0], make_.make_str("another"), 1);
    count_to(version_);
    const std::uint32_t now = look_and_find(made_[0]);
    EXPECT_NE(now, id);
    EXPECT_EQ(name_of(now), "another");
}

TEST_P(VersionCounterOf, ACodeThatIsMadeWhileStacksAreCopiedIsSeen) {
    count_to(version_);
    meet_all();
    compared();
    ASSERT_EQ(compared(), 0U);
    codes_.begin_look(memory_);
    batch_.reset();
    codes_.request(batch_, made_);
    codes_.add_requested(batch_);
    write_code(made_[0], make_.make_str("another"), 1);
    count_to(version_);
    batch_.run(memory_);
    codes_.check(memory_, batch_, frames_of(made_), {}, 0);
    EXPECT_EQ(name_of(find(made_[0])), "another");
    EXPECT_EQ(compared(), made_.size()) << "what was compared before the counter was read";
}

TEST_P(VersionCounterOf, WhatDoesNotKeepUpIsNoCounter) {
    for (const std::uint32_t value : {std::uint32_t{1}, version_ - 6, version_ + 1'000'000}) {
        count_to(value);
        codes_.begin_look(memory_);
        meet_all();
        compared();
        EXPECT_EQ(compared(), made_.size()) << value;
        made_ = {make_code("one_more"), make_code("and_another"), make_code("a_third")};
    }
}

TEST_P(VersionCounterOf, WhatHasBeenRefusedIsNotBelievedAgain) {
    count_to(version_ - 1);
    meet_all();
    count_to(version_);
    for (int i = 0; i < 2; ++i) {
        codes_.set_version_counter(Address());  // as with two interpreters for a while
        codes_.set_version_counter(counter_);
        codes_.begin_look(memory_);
        made_.clear();
        for (int k = 0; k < 6; ++k) {
            made_.push_back(make_code("more_" + std::to_string(i) + std::to_string(k)));
        }
        count_to(version_);
        meet_all();
        compared();
        EXPECT_EQ(compared(), made_.size());
    }
}

TEST_P(VersionCounterOf, WhereNumbersBeginAnewNothingIsKnown) {
    count_to(version_);
    meet_all();
    compared();
    ASSERT_EQ(compared(), 0U);
    const std::uint32_t before = find(made_[0]);
    const std::uint32_t version = version_ - 6;
    // Another Python's: at the same place, with the same type and number.
    version_ = version;
    write_code(made_[0], make_.make_str("another"), 1);
    count_to(version_);
    EXPECT_TRUE(codes_.is_python_new(memory_));
    const std::uint32_t now = look_and_find(made_[0]);
    EXPECT_NE(now, before);
    EXPECT_EQ(name_of(now), "another");
    EXPECT_TRUE(codes_.is_python_new(memory_)) << "until it is told to forget";
    codes_.forget();
    EXPECT_FALSE(codes_.is_python_new(memory_));
    codes_.begin_look(memory_);
    EXPECT_FALSE(codes_.is_python_new(memory_));
}

TEST_P(VersionCounterOf, WhatFallsAgainAndAgainIsNoCounter) {
    count_to(50);
    codes_.begin_look(memory_);
    EXPECT_TRUE(codes_.is_python_new(memory_)) << "this one may be";
    codes_.forget();
    codes_.begin_look(memory_);
    for (const std::uint32_t value : {40U, 30U, 20U}) {
        count_to(value);
        EXPECT_FALSE(codes_.is_python_new(memory_)) << value;
        codes_.begin_look(memory_);
    }
}

TEST_P(VersionCounterOf, WhereNumbersHaveRunOutAllIsCompared) {
    count_to(version_);
    meet_all();
    compared();
    ASSERT_EQ(compared(), 0U);
    count_to(0);
    EXPECT_EQ(compared(), made_.size());
    EXPECT_EQ(compared(), made_.size());
}

TEST_P(VersionCounterOf, IdsOfAVoidBatchAreNotHeld) {
    count_to(version_);
    meet_all();
    compared();
    const std::uint64_t found = codes_.look();
    compared();
    ASSERT_TRUE(codes_.holds_since(found));
    codes_.forget_tick();
    EXPECT_FALSE(codes_.holds_since(found));
    look(made_, true);
    EXPECT_FALSE(codes_.holds_since(found));
}

TEST_P(CodeRegistryOf, WhatIsNoCodeObjectIsUnknown) {
    const Address other = make_code("other");
    memory_.write(other + at(layout_.object.ob_type), make_.str_type);
    EXPECT_EQ(find(other), CodeRegistry::kUnknownCode);
    EXPECT_EQ(find(Address(0x40)), CodeRegistry::kUnknownCode);
    EXPECT_EQ(codes_.counts().names_failed, 2U);
    EXPECT_EQ(name_of(CodeRegistry::kUnknownCode), "<unknown>");
}

TEST_P(CodeRegistryOf, ACodeWhoseMemoryHasGoneIsUnknown) {
    const Address code = make_code("gone");
    find(code);
    memory_.unmap(code);
    EXPECT_EQ(look_and_find(code), CodeRegistry::kUnknownCode);
    tick();
    EXPECT_EQ(find(code), CodeRegistry::kUnknownCode);
    const Address other = make_code("other");
    EXPECT_EQ(name_of(find(other)), "other");
}

TEST_P(CodeRegistryOf, AFreedCodeIsUnknownThoughItsTextsAreStillThere) {
    const Address code = make_code("freed");
    const cpython::ObjectLayout& fields = layout_.object;
    if (cpython::has(fields.ob_ref_local)) {
        // What is left there: none, and perhaps the mark of merged counts.
        const auto write_counts = [&](std::uint32_t local, std::intptr_t shared) {
            memory_.write(code + at(fields.ob_ref_local), local);
            memory_.write(code + at(fields.ob_ref_shared), shared);
        };
        for (const std::intptr_t flags : {0, 3}) {
            write_counts(0, flags);
            EXPECT_EQ(find(code), CodeRegistry::kUnknownCode) << flags;
        }
        write_counts(2, -2 * 4 + 1);
        EXPECT_EQ(find(code), CodeRegistry::kUnknownCode);
        write_counts(0, 1 * 4 + 3);
        EXPECT_EQ(name_of(find(code)), "freed");
        write_counts(UINT32_MAX, 0);  // immortal
        EXPECT_EQ(name_of(find(code)), "freed");
        return;
    }
    for (const std::uintptr_t link : {std::uintptr_t{0}, std::uintptr_t{0x7f00'0000'1000}}) {
        memory_.write(code, link);  // what an allocator leaves there
        EXPECT_EQ(find(code), CodeRegistry::kUnknownCode) << link;
    }
    memory_.write(code, std::uintptr_t{0xffff'ffff});  // immortal, in 3.12 and later
    EXPECT_EQ(name_of(find(code)), "freed");
}

TEST_P(CodeRegistryOf, TellsWhenItHasReadACodeToDefineIt) {
    const Address code = make_code("one");
    find(code);
    const std::uint64_t reads = codes_.reads();
    find(code);
    EXPECT_EQ(codes_.reads(), reads);
    write_code(code, make_.make_str("another"), 7);
    look_and_find(code);
    EXPECT_GT(codes_.reads(), reads);
}

TEST_P(CodeRegistryOf, ACodeWithoutAnyReadableTextIsStillDefined) {
    const Address code = make_code("x");
    const Address no_text = make_.make_bytes("");  // no str
    memory_.write(code + at(layout_.code.name), no_text);
    memory_.write(code + at(layout_.code.filename), no_text);
    memory_.write(code + at(layout_.code.linetable), no_text);
    if (cpython::has(layout_.code.qualname)) {
        memory_.write(code + at(layout_.code.qualname), no_text);
    }
    const std::uint32_t id = find(code);
    encoder_.thread(1, 0, 1, "t");
    const stream::FrameRef frame{id, 0};
    encoder_.stack(1, 0, 0, {&frame, 1});
    end_tick();  // the other end takes it
}

TEST_P(CodeRegistryOf, GivesTheDefinitionsOfAVoidBatchAgain) {
    const Address code = make_code("lost");
    find(code);
    codes_.forget_tick();
    encoder_.begin_tick(0);  // what was in the batch is gone
    EXPECT_EQ(name_of(find(code)), "lost");
}

TEST_P(CodeRegistryOf, StartsOverWhenItsTableIsFull) {
    constexpr std::size_t kMore = 30'000;  // than it has places for
    constexpr std::size_t kPerBatch = 1'000;
    const Address name = make_.make_str("function");
    const std::size_t code_bytes = (at(layout_.code.size) + 15) & ~std::size_t{15};
    const Address codes(0x50000000);
    memory_.map(codes, kMore * code_bytes);
    std::uint32_t last = 0;
    for (std::size_t i = 0; i < kMore; ++i) {
        write_code(codes + i * code_bytes, name, static_cast<std::int32_t>(i));
        last = find(codes + i * code_bytes);
        ASSERT_NE(last, CodeRegistry::kUnknownCode);
        if (i % kPerBatch == 0) {
            end_tick();
            tick();
        }
    }
    EXPECT_EQ(codes_.counts().table_full, 1U);
    end_tick();
    EXPECT_EQ(known_.codes[last].first_line, kMore - 1);
}

TEST_P(CodeRegistryOf, AnIdIsNeverTwoCodesWhenIdsAreGivenAnew) {
    // A function that is made again and again in the same place, and one that stays.
    const Address steady = make_code("steady", 7);
    const Address restless = make_code("restless");
    const Address name = make_.make_str("restless");
    const std::uint32_t numbering = codes_.numbering();
    const std::uint32_t steady_id = find(steady);
    std::uint32_t rounds = 0;
    for (; codes_.numbering() == numbering; ++rounds) {
        ASSERT_LT(rounds, CodeRegistry::kMaxIds);
        write_code(restless, name, static_cast<std::int32_t>(rounds % 1000 + 100));
        tick();
        const std::uint32_t id = look_and_find(restless);
        ASSERT_LT(id, CodeRegistry::kMaxIds);
        end_tick();
        ASSERT_EQ(known_.codes[id].first_line, rounds % 1000 + 100);
    }
    EXPECT_GT(rounds, CodeRegistry::kMaxIds / 2) << "ids are used up before";
    tick();
    const std::uint32_t restless_id = find(restless);
    const std::uint32_t now = find(steady);
    EXPECT_NE(now, restless_id);
    EXPECT_EQ(name_of(now), "steady");
    EXPECT_EQ(known_.codes[now].first_line, 7U);
    EXPECT_EQ(known_.codes[restless_id].name, "restless");
    EXPECT_EQ(steady_id, 1U) << "the id that the restless one has by now";
}

}  // namespace
}  // namespace echion::code
