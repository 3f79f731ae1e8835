#include "cpython/debug_offsets.h"

#include <gtest/gtest.h>

#include <cstring>

#include "cpython/layout.h"
#include "test_memory.h"

namespace echion::cpython {
namespace {

const Layout& row() { return *find_layout({3, 13, 0}); }

/// What an ordinary build states: exactly the row.
template <typename Stated>
Stated ordinary(const Layout& is) {
    Stated stated{};
    std::memcpy(stated.cookie, "xdebugpy", 8);
    stated.version = 0x030000f0U | std::uint32_t{is.minor} << 16U;
    const auto u64 = [](Offset offset) { return static_cast<std::uint64_t>(offset); };
    stated.runtime_state = {200000, u64(is.runtime.finalizing), u64(is.runtime.interpreters_head)};
    auto& interpreter = stated.interpreter_state;
    interpreter.size = 300000;
    interpreter.id = u64(is.interpreter.id);
    interpreter.next = u64(is.interpreter.next);
    interpreter.threads_head = u64(is.interpreter.threads_head);
    interpreter.gc = u64(is.interpreter.gc_collecting) - 64;
    stated.gc.size = 248;
    stated.gc.collecting = 64;
    interpreter.imports_modules = u64(is.interpreter.modules);
    interpreter.ceval_gil = u64(is.interpreter.ceval_gil);
    interpreter.gil_runtime_state = 8000;
    interpreter.gil_runtime_state_holder = 8000 + u64(is.gil.last_holder);
    interpreter.gil_runtime_state_locked = 8000 + u64(is.gil.locked);
    auto& thread = stated.thread_state;
    thread.size = 272;
    thread.prev = u64(is.thread_state.prev);
    thread.next = u64(is.thread_state.next);
    thread.interp = u64(is.thread_state.interp);
    thread.current_frame = u64(is.thread_state.frame);
    thread.thread_id = u64(is.thread_state.thread_id);
    thread.native_thread_id = u64(is.thread_state.native_thread_id);
    thread.datastack_chunk = u64(is.thread_state.datastack_chunk);
    auto& frame = stated.interpreter_frame;
    frame.size = 88;
    frame.previous = u64(is.frame.previous);
    frame.executable = u64(is.frame.code);
    frame.instr_ptr = u64(is.frame.instruction);
    frame.owner = u64(is.frame.owner);
    auto& code = stated.code_object;
    code.size = u64(is.code.code_adaptive) + 8;
    code.filename = u64(is.code.filename);
    code.name = u64(is.code.name);
    code.qualname = u64(is.code.qualname);
    code.linetable = u64(is.code.linetable);
    code.firstlineno = u64(is.code.firstlineno);
    code.co_code_adaptive = u64(is.code.code_adaptive);
    stated.free_threaded = std::uint64_t{is.free_threaded};
    if constexpr (requires { code.co_tlbc; }) {
        code.co_tlbc = has(is.code.tlbc) ? u64(is.code.tlbc) : 0;
        frame.tlbc_index = has(is.frame.tlbc_index) ? u64(is.frame.tlbc_index) : 0;
    }
    stated.pyobject = {u64(is.object.size), u64(is.object.ob_type)};
    stated.type_object.size = 416;
    stated.type_object.tp_name = u64(is.type.tp_name);
    stated.type_object.tp_flags = u64(is.type.tp_flags);
    stated.dict_object = {u64(is.dict.size), u64(is.dict.ma_keys), u64(is.dict.ma_values)};
    stated.long_object = {64, u64(is.integer.lv_tag), u64(is.integer.ob_digit)};
    stated.bytes_object = {64, u64(is.bytes.ob_size), u64(is.bytes.ob_sval)};
    stated.unicode_object.size = 96;
    stated.unicode_object.state = u64(is.unicode.state);
    stated.unicode_object.length = u64(is.unicode.length);
    stated.unicode_object.asciiobject_size = u64(is.unicode.ascii_data);
    return stated;
}

DebugOffsets313 ordinary() { return ordinary<DebugOffsets313>(row()); }

ErrorKind kind_of(const DebugOffsets313& stated) {
    const auto layout = apply_debug_offsets(stated, row());
    EXPECT_FALSE(layout.has_value());
    return layout ? ErrorKind::kSystem : layout.error().kind;
}

template <typename Stated>
void expect_the_row(const Layout& row) {
    const int minor = row.minor;
    const auto layout = apply_debug_offsets(ordinary<Stated>(row), row);
    ASSERT_TRUE(layout.has_value()) << minor;
    EXPECT_EQ(std::memcmp(&*layout, &row, sizeof(Layout)), 0) << minor;
}

TEST(DebugOffsets, AnOrdinaryBuildGivesTheRow) {
    expect_the_row<DebugOffsets313>(*find_layout({3, 13, 0}));
    expect_the_row<DebugOffsets314>(*find_layout({3, 14, 0}));
    expect_the_row<DebugOffsets315>(*find_layout({3, 15, 0}));
    expect_the_row<DebugOffsets313>(*find_free_threaded_layout({3, 13, 0}));
    expect_the_row<DebugOffsets314>(*find_free_threaded_layout({3, 14, 0}));
    expect_the_row<DebugOffsets315>(*find_free_threaded_layout({3, 15, 0}));
}

TEST(DebugOffsets, WinOverTheRowAndTakeUnstatedNeighboursAlong) {
    DebugOffsets313 stated = ordinary();
    stated.thread_state.size += 8;
    stated.thread_state.datastack_chunk += 8;
    stated.runtime_state.interpreters_head += 16;
    const auto layout = apply_debug_offsets(stated, row());
    ASSERT_TRUE(layout.has_value());
    EXPECT_EQ(layout->thread_state.datastack_chunk, row().thread_state.datastack_chunk + 8);
    EXPECT_EQ(layout->thread_state.datastack_top, row().thread_state.datastack_top + 8);
    EXPECT_EQ(layout->thread_state.id, row().thread_state.id + 8);
    EXPECT_EQ(layout->thread_state.size, row().thread_state.size + 8);
    EXPECT_EQ(layout->thread_state.thread_id, row().thread_state.thread_id);
    EXPECT_EQ(layout->runtime.interpreters_main, row().runtime.interpreters_main + 16);
    EXPECT_EQ(layout->runtime.main_thread, row().runtime.main_thread + 16);
}

TEST(DebugOffsets, ARowIsOfBuildsWithAGilOrOfThoseWithout) {
    DebugOffsets313 stated = ordinary();
    stated.free_threaded = 1;
    EXPECT_EQ(kind_of(stated), ErrorKind::kInvalid);
    stated.free_threaded = 2;
    EXPECT_EQ(kind_of(stated), ErrorKind::kInvalid);
    const Layout& row = *find_free_threaded_layout({3, 13, 0});
    stated = ordinary<DebugOffsets313>(row);
    stated.free_threaded = 0;
    EXPECT_FALSE(apply_debug_offsets(stated, row).has_value());
}

TEST(DebugOffsets, ABuildWithoutAGilMovesNoField) {
    const Layout& row = *find_free_threaded_layout({3, 14, 0});
    const auto expect_refused = [&](const DebugOffsets314& stated) {
        const auto layout = apply_debug_offsets(stated, row);
        ASSERT_FALSE(layout.has_value());
        EXPECT_EQ(layout.error().kind, ErrorKind::kUnsupportedVersion);
        EXPECT_NE(std::strstr(layout.error().what, "free-threaded"), nullptr);
    };
    const auto usual = ordinary<DebugOffsets314>(row);
    auto stated = usual;
    stated.thread_state.current_frame += 8;
    expect_refused(stated);
    stated = usual;
    stated.interpreter_frame.tlbc_index -= 8;
    expect_refused(stated);
    stated = usual;
    stated.code_object.co_tlbc -= 8;
    expect_refused(stated);
}

TEST(DebugOffsets, TellWhetherABuildHasAGil) {
    for (const std::uint64_t flag : {0, 1}) {
        test::TestMemory memory;
        const Address runtime = memory.allocate(sizeof(DebugOffsets313));
        DebugOffsets313 stated = ordinary();
        stated.free_threaded = flag;
        ASSERT_TRUE(memory.write(runtime, stated));
        const auto told = is_free_threaded(memory, runtime, row());
        ASSERT_TRUE(told.has_value());
        EXPECT_EQ(*told, flag == 1);
    }
    test::TestMemory nothing;
    EXPECT_FALSE(is_free_threaded(nothing, Address(0x1000), row()).has_value());
    const auto old = is_free_threaded(nothing, Address(0x1000), *find_layout({3, 12, 0}));
    EXPECT_TRUE(old.has_value() && !*old);
}

TEST(DebugOffsets, AnotherVersionIsRefused) {
    DebugOffsets313 stated = ordinary();
    stated.version = 0x030e00f0;
    EXPECT_EQ(kind_of(stated), ErrorKind::kUnsupportedVersion);
    stated.version = 0x1000000000000ULL | 0x030d00f0;
    EXPECT_EQ(kind_of(stated), ErrorKind::kUnsupportedVersion);
}

TEST(DebugOffsets, AWrongCookieIsRefused) {
    DebugOffsets313 stated = ordinary();
    stated.cookie[7] = 'z';
    EXPECT_EQ(kind_of(stated), ErrorKind::kInvalid);
}

/// Every stated number replaced by every hostile one: refused, or still inside the structures.
TEST(DebugOffsets, NoHostileNumberLeadsOutOfItsStructure) {
    constexpr std::size_t kNumbers = sizeof(DebugOffsets313) / sizeof(std::uint64_t);
    for (std::size_t i = 1; i < kNumbers; ++i) {
        for (const std::uint64_t hostile :
             {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{4095}, std::uint64_t{1} << 20,
              std::uint64_t{1} << 31, (std::uint64_t{1} << 32) + 8, std::uint64_t{1} << 63,
              ~std::uint64_t{0}, ~std::uint64_t{7}}) {
            DebugOffsets313 stated = ordinary();
            std::memcpy(reinterpret_cast<char*>(&stated) + i * sizeof(hostile), &hostile,
                        sizeof(hostile));
            const auto layout = apply_debug_offsets(stated, row());
            if (!layout) {
                continue;
            }
            const Layout& is = *layout;
            const auto in_thread = [&](Offset field) {
                return field >= 0 && field + Offset{sizeof(void*)} <= is.thread_state.size;
            };
            EXPECT_TRUE(in_thread(is.thread_state.prev) && in_thread(is.thread_state.next) &&
                        in_thread(is.thread_state.interp) && in_thread(is.thread_state.frame) &&
                        in_thread(is.thread_state.thread_id) && in_thread(is.thread_state.id) &&
                        in_thread(is.thread_state.native_thread_id) &&
                        in_thread(is.thread_state.datastack_chunk) &&
                        in_thread(is.thread_state.datastack_top))
                << "number " << i << " as " << hostile;
            EXPECT_LE(is.thread_state.size, 2 * row().thread_state.size);
            EXPECT_LE(is.code.linetable + Offset{sizeof(void*)}, is.code.size);
            EXPECT_LE(is.code.firstlineno + 4, is.code.size);
            EXPECT_LE(is.gil.last_holder + Offset{sizeof(void*)}, is.gil.size);
            EXPECT_LE(is.gil.switch_number + Offset{sizeof(void*)}, is.gil.size);
            EXPECT_LE(is.gil.locked + 4, is.gil.size);
            EXPECT_LE(is.frame.owner + 1, is.frame.size);
            EXPECT_LE(is.type.tp_flags + Offset{sizeof(void*)}, is.type.size);
            EXPECT_LE(is.dict.ma_values + Offset{sizeof(void*)}, is.dict.size);
            EXPECT_LE(is.unicode.state + 4, is.unicode.ascii_data);
            EXPECT_LE(is.interpreter.modules + Offset{sizeof(void*)}, is.interpreter.size);
            EXPECT_LE(is.interpreter.size, 1 << 24);
            EXPECT_LE(is.runtime.size, (1 << 24) + 64);
        }
    }
}

TEST(DebugOffsets, ReadFromTheStartOfTheRuntime) {
    test::TestMemory memory;
    const Address runtime = memory.allocate(sizeof(DebugOffsets313));
    memory.write(runtime, ordinary());
    EXPECT_TRUE(read_debug_offsets(memory, runtime, row()).has_value());

    const Address too_short = memory.allocate(sizeof(DebugOffsets313) - 1);
    const auto layout = read_debug_offsets(memory, too_short, row());
    ASSERT_FALSE(layout.has_value());
    EXPECT_EQ(layout.error().kind, ErrorKind::kUnreadable);
}

TEST(DebugOffsets, OlderVersionsHaveNone) {
    test::TestMemory memory;
    const Layout& old = *find_layout({3, 12, 0});
    const auto layout = read_debug_offsets(memory, Address(0x1000), old);
    ASSERT_TRUE(layout.has_value());
    EXPECT_EQ(layout->minor, 12);
    EXPECT_EQ(memory.calls, 0U);
}

}  // namespace
}  // namespace echion::cpython
