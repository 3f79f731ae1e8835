#include "cpython/layout.h"

#include <gtest/gtest.h>

namespace echion::cpython {
namespace {

TEST(Layouts, EverySupportedMinorVersionHasItsRow) {
    for (std::uint8_t minor = 8; minor <= 15; ++minor) {
        const Layout* row = find_layout({3, minor, 0});
        ASSERT_NE(row, nullptr) << "3." << int{minor};
        EXPECT_EQ(row->major, 3);
        EXPECT_EQ(row->minor, minor);
        EXPECT_EQ(row->pointer_bytes, sizeof(void*));
    }
}

TEST(Layouts, AnUnknownVersionHasNone) {
    EXPECT_EQ(find_layout({3, 7, 0}), nullptr);
    EXPECT_EQ(find_layout({3, 16, 0}), nullptr);
    EXPECT_EQ(find_layout({2, 10, 0}), nullptr);
    EXPECT_EQ(find_layout({4, 8, 0}), nullptr);
    EXPECT_TRUE(layouts_of_abi(2).empty());
}

TEST(Layouts, FreeThreadedBuildsHaveRowsOfTheirOwn) {
    for (std::uint8_t minor = 13; minor <= 15; ++minor) {
        const Layout* row = find_free_threaded_layout({3, minor, 0});
        ASSERT_NE(row, nullptr) << "3." << int{minor};
        EXPECT_TRUE(row->free_threaded && !find_layout({3, minor, 0})->free_threaded);
        EXPECT_EQ(row->minor, minor);
        EXPECT_TRUE(has(row->thread_state.state) && has(row->object.ob_ref_local));
        // Each thread has bytecode of its own from 3.14 on.
        EXPECT_EQ(has(row->frame.tlbc_index), minor >= 14);
        EXPECT_EQ(has(row->code.tlbc), minor >= 14);
        EXPECT_LE(row->thread_state.state + 4, row->thread_state.size);
        EXPECT_LE(row->frame.tlbc_index + 4, row->frame.size);
        EXPECT_LE(row->code.tlbc + 8, row->code.size);
    }
    EXPECT_EQ(find_free_threaded_layout({3, 12, 0}), nullptr);
    EXPECT_EQ(find_free_threaded_layout({3, 16, 0}), nullptr);
}

class EveryRow : public testing::TestWithParam<int> {
  protected:
    [[nodiscard]] std::span<const Layout> rows() const { return layouts_of_abi(GetParam()); }
};

TEST_P(EveryRow, IsInOrderAndOfItsAbi) {
    ASSERT_EQ(rows().size(), 8U);
    for (std::size_t i = 0; i < rows().size(); ++i) {
        EXPECT_EQ(rows()[i].minor, 8 + i);
        EXPECT_EQ(rows()[i].pointer_bytes, GetParam());
    }
}

TEST_P(EveryRow, HasExactlyOneWayToTheGilAndToTheFrame) {
    for (const Layout& row : rows()) {
        EXPECT_NE(has(row.runtime.ceval_gil), has(row.interpreter.ceval_gil));
        EXPECT_NE(has(row.thread_state.frame), has(row.thread_state.cframe));
        EXPECT_EQ(has(row.thread_state.cframe), has(row.cframe.current_frame));
        EXPECT_NE(has(row.runtime.gc_collecting), has(row.interpreter.gc_collecting));
        EXPECT_NE(has(row.dict_keys.dk_size), has(row.dict_keys.dk_log2_size));
        EXPECT_NE(has(row.integer.ob_size), has(row.integer.lv_tag));
        EXPECT_EQ(has(row.code.code_adaptive),
                  row.frame.instruction_kind == InstructionKind::kCodePointer);
    }
}

TEST_P(EveryRow, KeepsItsFieldsInsideItsSizes) {
    for (const Layout& row : rows()) {
        const Offset word = row.pointer_bytes;
        for (Offset field : {row.thread_state.prev, row.thread_state.next, row.thread_state.interp,
                             row.thread_state.frame, row.thread_state.cframe, row.thread_state.id,
                             row.thread_state.thread_id, row.thread_state.datastack_chunk}) {
            EXPECT_LE(field + word, row.thread_state.size);
        }
        for (Offset field : {row.frame.previous, row.frame.code, row.frame.owner}) {
            EXPECT_LT(field, row.frame.size);
        }
        for (Offset field :
             {row.code.filename, row.code.name, row.code.qualname, row.code.linetable}) {
            EXPECT_LE(field + word, row.code.size);
        }
        for (Offset field : {row.interpreter.modules, row.interpreter.next,
                             row.interpreter.threads_head, row.interpreter.ceval_gil}) {
            EXPECT_LE(field + word, row.interpreter.size);
        }
        EXPECT_LE(row.type.tp_dictoffset + word, row.type.size);
        EXPECT_EQ(row.unicode.kind_bits, 3);
    }
}

INSTANTIATE_TEST_SUITE_P(Abis, EveryRow, testing::Values(8, 4));

}  // namespace
}  // namespace echion::cpython
