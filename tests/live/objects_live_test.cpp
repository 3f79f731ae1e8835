// The readers of objects against running interpreters: what they read from outside must be what
// the interpreter says.

#include <gtest/gtest.h>

#include <cstring>
#include <memory>

#include "cpython/attributes.h"
#include "cpython/debug_offsets.h"
#include "cpython/dicts.h"
#include "cpython/layout.h"
#include "cpython/locate.h"
#include "cpython/objects.h"
#include "live_python.h"
#include "platform/process_reader.h"

namespace echion::cpython {
namespace {

using test::from_hex;
using test::to_number;

std::string text_of(const std::string& hex) { return hex == "-" ? "" : from_hex(hex); }

class ObjectsLive : public testing::TestWithParam<std::string> {
  protected:
    void SetUp() override {
        python_ = std::make_unique<test::LivePython>(GetParam(), ECHION_LIVE_SCRIPT);
        layout_ = test::find_layout_of(*python_);
        ASSERT_NE(layout_, nullptr);
        ASSERT_TRUE(memory_.open(python_->pid(), Address()).has_value());
        objects_ = std::make_unique<ObjectReader>(memory_, *layout_);
    }

    /// Calls `check` with each fact of a kind; fails when there are none.
    template <typename Check>
    void for_each(const std::string& kind, Check check) {
        std::size_t seen = 0;
        for (const auto& fact : python_->facts()) {
            if (fact.at(0) == kind) {
                check(Address(to_number(fact.at(1))), fact);
                ++seen;
            }
        }
        EXPECT_GT(seen, 0U) << "no facts of kind " << kind;
    }

    std::unique_ptr<test::LivePython> python_;
    const Layout* layout_ = nullptr;
    ProcessReader memory_;
    std::unique_ptr<ObjectReader> objects_;
};

TEST_P(ObjectsLive, ReadsStringsOfEveryKind) {
    std::vector<char> room(1U << 16);
    for_each("str", [&](Address at, const auto& fact) {
        auto text = objects_->read_unicode(at, room);
        ASSERT_TRUE(text.has_value()) << fact[2] << ": " << text.error().what;
        EXPECT_EQ(text->utf8, text_of(fact[2]));
        EXPECT_FALSE(text->truncated);
    });
}

TEST_P(ObjectsLive, CutsLongStringsBehindACodePoint) {
    for (const std::size_t bytes : {0U, 1U, 5U, 17U, 257U}) {
        std::vector<char> room(bytes);
        for_each("str", [&](Address at, const auto& fact) {
            const std::string whole = text_of(fact[2]);
            auto text = objects_->read_unicode(at, room);
            ASSERT_TRUE(text.has_value());
            EXPECT_EQ(text->utf8, whole.substr(0, text->utf8.size()));
            EXPECT_EQ(text->truncated, whole.size() > bytes);
            if (text->truncated) {
                // The next code point starts right there and would not have fitted.
                const auto next = static_cast<unsigned char>(whole[text->utf8.size()]);
                EXPECT_NE(next & 0xc0U, 0x80U);
                const std::size_t length = next < 0x80 ? 1 : next < 0xe0 ? 2 : next < 0xf0 ? 3 : 4;
                EXPECT_GT(text->utf8.size() + length, bytes);
            }
        });
    }
}

TEST_P(ObjectsLive, RefusesOtherObjectsAsStrings) {
    char room[64];
    for_each("notstr", [&](Address at, const auto&) {
        EXPECT_FALSE(objects_->read_unicode(at, room).has_value());
        EXPECT_FALSE(DictView::read(*objects_, at).has_value());
    });
}

TEST_P(ObjectsLive, ReadsBytes) {
    std::vector<std::byte> room(1U << 16);
    for_each("bytes", [&](Address at, const auto& fact) {
        auto bytes = objects_->read_bytes(at, room);
        ASSERT_TRUE(bytes.has_value());
        const std::string expected = text_of(fact[2]);
        ASSERT_EQ(bytes->bytes.size(), expected.size());
        EXPECT_EQ(std::memcmp(bytes->bytes.data(), expected.data(), expected.size()), 0);
        EXPECT_FALSE(bytes->truncated);
    });
}

TEST_P(ObjectsLive, ReadsIntegersThatFit) {
    for_each("int", [&](Address at, const auto& fact) {
        auto value = objects_->read_unsigned(at);
        ASSERT_TRUE(value.has_value()) << fact[2];
        EXPECT_EQ(*value, to_number(fact[2]));
    });
    for_each("badint", [&](Address at, const auto&) {
        auto value = objects_->read_unsigned(at);
        ASSERT_FALSE(value.has_value());
        EXPECT_EQ(value.error().kind, ErrorKind::kBoundExceeded);
    });
}

TEST_P(ObjectsLive, WalksDicts) {
    for_each("dict", [&](Address at, const auto& fact) {
        auto dict = DictView::read(*objects_, at);
        ASSERT_TRUE(dict.has_value()) << dict.error().what;
        EXPECT_EQ(dict->used(), to_number(fact[2]));
        std::vector<DictView::Entry> entries(dict->count());
        auto count = dict->read_entries(*objects_, 0, entries);
        ASSERT_TRUE(count.has_value());
        ASSERT_EQ(*count, entries.size());
        std::size_t used = 0;
        std::uint64_t values = 0;
        std::uint64_t keys = 0;
        for (const DictView::Entry& entry : entries) {
            if (!entry.value.is_null()) {
                ++used;
                values += entry.value.value();
                keys += entry.key.value();
            }
        }
        constexpr std::uint64_t kMask = (std::uint64_t{1} << 61) - 1;
        EXPECT_EQ(used, to_number(fact[2]));
        EXPECT_EQ(values & kMask, to_number(fact[3]));
        EXPECT_EQ(keys & kMask, to_number(fact[4]));
    });
}

TEST_P(ObjectsLive, FindsKeysInDicts) {
    for_each("item", [&](Address at, const auto& fact) {
        auto dict = DictView::read(*objects_, at);
        ASSERT_TRUE(dict.has_value());
        FindHint hint;
        for (int round = 0; round < 2; ++round) {
            auto value = dict->find(*objects_, fact[2], &hint);
            ASSERT_TRUE(value.has_value()) << value.error().what;
            EXPECT_EQ(value->value(), to_number(fact[3])) << fact[2];
        }
    });
}

TEST_P(ObjectsLive, FindsAttributesOfInstances) {
    for_each("attr", [&](Address at, const auto& fact) {
        auto value = find_attribute(*objects_, at, fact[2]);
        ASSERT_TRUE(value.has_value()) << fact[2] << ": " << value.error().what;
        EXPECT_EQ(value->value(), to_number(fact[3])) << fact[2];
    });
}

TEST_P(ObjectsLive, OneFinderServesInstancesOfManyClasses) {
    // The same name asked of every instance, with what it has learnt of the others.
    for (const char* name : {"first", "second", "tag", "_name", "missing"}) {
        AttributeFinder finder(name);
        for (int round = 0; round < 2; ++round) {
            for_each("attr", [&](Address at, const auto& fact) {
                if (fact[2] == name) {
                    auto value = finder.find(*objects_, at);
                    ASSERT_TRUE(value.has_value()) << value.error().what;
                    EXPECT_EQ(value->value(), to_number(fact[3])) << name;
                }
            });
        }
    }
}

TEST_P(ObjectsLive, FindsModulesAndTheirGlobals) {
    for_each("module", [&](Address at, const auto& fact) {
        auto module = find_module(*objects_, at, fact[2]);
        ASSERT_TRUE(module.has_value());
        EXPECT_EQ(module->value(), to_number(fact[3]));
    });
    for_each("global", [&](Address at, const auto& fact) {
        auto value = find_global(*objects_, at, fact[2]);
        ASSERT_TRUE(value.has_value());
        EXPECT_EQ(value->value(), to_number(fact[3]));
    });
}

TEST_P(ObjectsLive, TheLayoutLeadsFromTheRuntimeToTheModules) {
    for_each("runtime", [&](Address runtime, const auto& fact) {
        auto interpreter = memory_.read_pointer(runtime + layout_->runtime.interpreters_main);
        ASSERT_TRUE(interpreter.has_value());
        auto modules = memory_.read_pointer(*interpreter + layout_->interpreter.modules);
        ASSERT_TRUE(modules.has_value());
        EXPECT_EQ(modules->value(), to_number(fact[2]));
        auto main_thread =
            memory_.read_value<std::uintptr_t>(runtime + layout_->runtime.main_thread);
        ASSERT_TRUE(main_thread.has_value());
        EXPECT_EQ(*main_thread, to_number(fact[3]));
        EXPECT_EQ(memory_.read_value<int>(runtime + layout_->runtime.initialized).value_or(0), 1);
    });
}

TEST_P(ObjectsLive, TheRuntimesOwnOffsetsAgreeWithTheRow) {
    for_each("runtime", [&](Address runtime, const auto&) {
        auto layout = read_debug_offsets(memory_, runtime, *layout_);
        ASSERT_TRUE(layout.has_value()) << layout.error().what;
        EXPECT_EQ(std::memcmp(&*layout, layout_, sizeof(Layout)), 0);
    });
}

TEST_P(ObjectsLive, TheRuntimeIsLocatedFromOutside) {
    for_each("runtime", [&](Address runtime, const auto&) {
        LocatedRuntime located;
        const Status status = locate_runtime(memory_, python_->pid(), located);
        ASSERT_TRUE(status.has_value()) << status.error().what;
        EXPECT_EQ(located.view.runtime, runtime);
        EXPECT_EQ(located.view.layout, layout_);
        EXPECT_TRUE(located.is_ready);
    });
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(ObjectsLive);
INSTANTIATE_TEST_SUITE_P(Pythons, ObjectsLive, testing::ValuesIn(test::find_pythons()),
                         [](const auto& python) { return test::python_name(python.param); });

}  // namespace
}  // namespace echion::cpython
