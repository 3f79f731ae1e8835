#include "capture/code_table.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "fake_objects.h"
#include "test_memory.h"

namespace echion::capture {
namespace {

using cpython::at;

/// A table of made-up code objects, in the layout of a minor version.
class CodeTableOf : public testing::TestWithParam<int> {
  protected:
    void SetUp() override {
        view_.layout = &layout_;
        memory_.fill_gaps();
        code_type_ = make_.make_type(0);
        view_.code_type = code_type_;
        auto table = CodeTable::make(view_);
        ASSERT_TRUE(table.has_value());
        table_.emplace(std::move(*table));
        file_ = make_.make_str("/srv/app.py");
    }

    Address make_code(Address name, Address file, Address line_table) {
        const Address code = memory_.allocate(at(layout_.code.size));
        make_.write_code(code, {code_type_, name, file, line_table, 12, version_++});
        return code;
    }
    Address make_code(const std::string& name) {
        return make_code(make_.make_str(name), file_, make_.make_bytes(""));
    }
    SourceFrame describe(Address code) { return table_->describe(memory_, {code, 0}); }

    test::TestMemory memory_;
    const cpython::Layout& layout_ =
        *cpython::find_layout({3, static_cast<std::uint8_t>(GetParam()), 0});
    test::FakeObjects make_{memory_, layout_};
    cpython::RuntimeView view_;
    Address code_type_;
    Address file_;
    std::uint32_t version_ = 1;
    std::optional<CodeTable> table_;
};

TEST_P(CodeTableOf, NamesACodeObjectAndReadsItOnce) {
    const Address code = make_code("work");
    EXPECT_EQ(describe(code).function, "work");
    const std::size_t calls = memory_.calls;
    EXPECT_EQ(describe(code).file, "/srv/app.py");
    EXPECT_FALSE(describe(code).is_trampoline);
    EXPECT_EQ(memory_.calls, calls);
}

TEST_P(CodeTableOf, WhatIsNoCodeObjectHasNoWords) {
    for (const Address nothing : {Address(), Address(0x10), file_}) {
        const SourceFrame frame = describe(nothing);
        EXPECT_TRUE(frame.function.empty() && frame.file.empty());
        EXPECT_EQ(frame.line, 0);
        EXPECT_FALSE(frame.is_trampoline);
    }
}

TEST_P(CodeTableOf, AnotherCodeObjectInTheSamePlaceIsFoundByVerify) {
    const Address code = make_code("before");
    EXPECT_EQ(describe(code).function, "before");
    make_.write_code(
        code, {code_type_, make_.make_str("after"), file_, make_.make_bytes(""), 12, version_++});
    EXPECT_EQ(describe(code).function, "before") << "good for one report";
    const cpython::RawFrame frame{code, 0};
    table_->verify(memory_, {&frame, 1});
    EXPECT_EQ(describe(code).function, "after");
    table_->clear();
    EXPECT_EQ(describe(code).function, "after");
}

TEST_P(CodeTableOf, TheTrampolineIsReadOnce) {
    if (!cpython::has(layout_.code.qualname)) {
        GTEST_SKIP() << "this version has no trampoline";
    }
    const Address name = make_.make_str("__init__");
    const Address trampoline = make_code(name, name, make_.make_bytes(""));
    EXPECT_TRUE(describe(trampoline).is_trampoline);
    const std::size_t calls = memory_.calls;
    EXPECT_TRUE(describe(trampoline).is_trampoline);
    EXPECT_EQ(memory_.calls, calls);
    EXPECT_FALSE(describe(make_code("work")).is_trampoline);
}

TEST_P(CodeTableOf, StartsOverWhenItIsFull) {
    // More tables than fit into its memory, and more code objects than it has places for.
    const std::string large(std::size_t{600} << 10, '\0');
    const Address line_table = make_.make_bytes(large);
    for (int i = 0; i < 40; ++i) {
        const std::string name = "large" + std::to_string(i);
        ASSERT_EQ(describe(make_code(make_.make_str(name), file_, line_table)).function, name);
    }
    const Address none = make_.make_bytes("");
    std::vector<Address> codes;
    for (int i = 0; i < 10'000; ++i) {
        codes.push_back(make_code(make_.make_str("f" + std::to_string(i)), file_, none));
        ASSERT_EQ(describe(codes.back()).function, "f" + std::to_string(i));
    }
    EXPECT_EQ(describe(codes.front()).function, "f0") << "read anew";
}

INSTANTIATE_TEST_SUITE_P(EachVersion, CodeTableOf, testing::Range(8, 16));

}  // namespace
}  // namespace echion::capture
