#include "output/mojo_writer.h"

#include <unistd.h>

#include <string>
#include <string_view>

#include "writer_test.h"

namespace echion::output {
namespace {

using namespace std::string_literals;

const std::string kEmptyHeader = "MOJ\x03"s;
// STRING 0 "", STRING 1 "<unknown>": in each process's first record.
const std::string kFixedStrings = "\x0b\x00\x00\x0b\x01<unknown>\x00"s;

class Mojo : public WriterTest {
  protected:
    Mojo() {
        writer.emplace(*file);
        process = writer->add_process(42);
        process->thread(0, 0, 0, "M");
    }
    std::string finish() {
        process.reset();
        EXPECT_TRUE(file->close());
        return read();
    }
    static std::string string(int key, std::string_view text) {
        return "\x0b"s + static_cast<char>(key) + std::string(text) + '\0';
    }
    static std::string frame(int key, int file_key, int name_key, int line) {
        std::string text = "\x03"s;
        for (const int field : {key, file_key, name_key, line, 0, 0, 0}) {
            text += static_cast<char>(field);
        }
        return text;
    }
    static std::string ref(int key) { return "\x05"s + static_cast<char>(key); }

    std::optional<MojoWriter> writer;
    std::unique_ptr<model::StackSink> process;
};

const std::string kStack = "\x02\x2a\x00M\x00"s;

TEST_F(Mojo, DefinesWhatARecordNeedsInFrontOfIt) {
    writer->add_header("mode", "wall");
    process->stack(0, {}, 0, Frames{code(7, "f", 3), code(8, "g", 4)});
    process->sample(0, 5, {});
    process->stack(0, {}, 1, Frames{code(9, "f", 6)});
    process->sample(0, 6, {});
    writer->add_footer("samples", "2");
    EXPECT_EQ(finish(), kEmptyHeader + "\x01mode\x00wall\x00"s + kStack + kFixedStrings +
                            string(2, "a.py") + string(3, "f") + frame(4, 2, 3, 3) +
                            string(5, "g") + frame(6, 2, 5, 4) + ref(4) + ref(6) + "\x09\x05" +
                            kStack + frame(7, 2, 3, 6) + ref(4) + ref(7) + "\x09\x06" +
                            "\x01samples\x00\x32\x00"s);
}

TEST_F(Mojo, PutsMarksAndLabelsIntoFrames) {
    process->stack(0, {.truncated = true, .invalid = true, .in_gc = true}, 0,
                   Frames{label(1, "Task-1")});
    process->sample(0, 1, {});
    process->missed(0, 2, {});
    const std::string all = finish();
    EXPECT_EQ(all, kEmptyHeader + kStack + kFixedStrings + string(2, "Task-1") + frame(3, 0, 2, 0) +
                       string(4, "TRUNCATED") + frame(5, 0, 4, 0) + string(6, "INVALID") +
                       frame(7, 0, 6, 0) + string(8, "GC") + frame(9, 0, 8, 0) + ref(5) + ref(7) +
                       ref(3) + ref(9) + "\x07" + "\x09\x01" + kStack + string(10, "MISSED") +
                       frame(11, 0, 10, 0) + ref(11) + "\x09\x02");
}

TEST_F(Mojo, WritesNumbersOfAnySize) {
    for (const std::int64_t value : {std::int64_t{63}, std::int64_t{64}, std::int64_t{1000},
                                     std::int64_t{-1000}, std::int64_t{1} << 62}) {
        process->sample(0, value, {});
    }
    const std::string all = finish();
    EXPECT_EQ(all.substr(kEmptyHeader.size()), kStack + kFixedStrings + "\x09\x3f"s + kStack +
                                                   "\x09\x80\x01"s + kStack + "\x09\xa8\x0f"s +
                                                   kStack + "\x09\xe8\x0f"s + kStack +
                                                   "\x09\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"s);
}

TEST_F(Mojo, UsesNoKeyTwice) {
    // A process that executes another program has the number of the former one.
    process->stack(0, {}, 0, Frames{code(1, "f", 1)});
    process->sample(0, 1, {});
    process = writer->add_process(42);
    process->thread(0, 0, 0, "M");
    process->stack(0, {}, 0, Frames{code(1, "f", 1)});
    process->sample(0, 1, {});
    const std::string all = finish();
    EXPECT_NE(all.find(kStack + kFixedStrings + string(5, "a.py") + string(6, "f") +
                       frame(7, 5, 6, 1) + ref(7)),
              all.npos);
}

TEST_F(Mojo, WritesAllOfAThreadUnderTheNameThatItGets) {
    process->thread(1, 0, 77, "");
    process->stack(1, {}, 0, Frames{code(1, "early", 1)});
    process->sample(1, 1, {});
    process->stack(0, {}, 0, Frames{code(2, "other", 2)});
    process->sample(0, 2, {});
    process->thread(1, 0, 77, "w");
    process->thread(2, 0, 78, "");
    process->sample(2, 3, {});
    process->thread_ended(2);
    const std::string late = "\x02\x2a\x00w\x00"s;
    // What the waiting record needs is defined by the one that is written first.
    EXPECT_EQ(finish(), kEmptyHeader + kStack + kFixedStrings + string(2, "a.py") +
                            string(3, "early") + frame(4, 2, 3, 1) + string(5, "other") +
                            frame(6, 2, 5, 2) + ref(6) + "\x09\x02" + late + ref(4) + "\x09\x01" +
                            "\x02\x2a\x00thread-78\x00\x09\x03"s);
}

TEST_F(Mojo, LeavesNoZeroInANameAndNoSyntaxOfTheText) {
    process->thread(0, 0, 0, std::string_view("a\0b;c", 5));
    process->sample(0, 1, {});
    EXPECT_EQ(finish(), kEmptyHeader + "\x02\x2a\x00"s + "a\u2400b\uFF1Bc" + '\0' + kFixedStrings +
                            "\x09\x01");
}

TEST_F(Mojo, EndsAtAWholeRecordWhenItsOutputIsFull) {
    const std::size_t first = kEmptyHeader.size() + kStack.size() + kFixedStrings.size() + 2;
    MojoWriter bounded(*file, {.output_bytes = first + kStack.size() + 1});
    process = bounded.add_process(42);
    process->thread(0, 0, 0, "M");
    process->sample(0, 11, {});
    EXPECT_FALSE(bounded.is_full());
    process->sample(0, 12, {});
    process->sample(0, -13, {});
    EXPECT_TRUE(bounded.is_full());
    EXPECT_EQ(bounded.records_cut(), 2U);
    EXPECT_EQ(bounded.value_cut(), 25U);
    EXPECT_EQ(finish().size(), first);
}

TEST_F(Mojo, IsWrittenUpToARecord) {
    for (int i = 0; i < 1000; ++i) {
        process->sample(0, 10, {});  // each ends in '\n'
        process->stack(0, {}, 0, Frames{code(static_cast<std::uint64_t>(i), "f", 10)});
    }
    process->sample(0, 9, {});
    file->flush();
    while (file->waiting_bytes() != 0) {
        usleep(1000);
    }
    EXPECT_TRUE(read().ends_with("\x09\x09"));
}

TEST_F(Mojo, LosesNoCountOverThreadsThatComeAndGo) {
    for (std::uint32_t round = 0; round < 100; ++round) {
        process->thread(round % 7, 0, 0, "t");
        process->stack(round % 7, {}, 0, Frames{code(1, "f", 1)});
        process->sample(round % 7, 1, {});
        process->thread(round % 7, 0, 0, std::string(round, 'n'));
        process->thread_ended(round % 7);
    }
    EXPECT_LT(process->memory_bytes(), 10'000U);
}

}  // namespace
}  // namespace echion::output
