#include "output/pprof_writer.h"

#include <gmock/gmock.h>
#include <unistd.h>
#include <zlib.h>

#include <map>
#include <protozero/pbf_reader.hpp>
#include <string>
#include <vector>

#include "writer_test.h"

namespace echion::output {
namespace {

using protozero::pbf_reader;
using testing::Contains;
using testing::ElementsAre;
using testing::Pair;
using testing::UnorderedElementsAre;

/// Unpacks what is there of a gzip file, whose end may be missing.
std::string unpack(const std::string& packed, bool* has_end = nullptr) {
    z_stream stream{};
    EXPECT_EQ(inflateInit2(&stream, 15 + 16), Z_OK);
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
    stream.avail_in = static_cast<uInt>(packed.size());
    std::string plain;
    int result = Z_OK;
    while (result == Z_OK) {
        char part[4096];
        stream.next_out = reinterpret_cast<Bytef*>(part);
        stream.avail_out = sizeof(part);
        result = inflate(&stream, Z_SYNC_FLUSH);
        plain.append(part, sizeof(part) - stream.avail_out);
    }
    EXPECT_TRUE(result == Z_STREAM_END || result == Z_BUF_ERROR);
    EXPECT_EQ(stream.avail_in, 0U) << "more than one member";
    inflateEnd(&stream);
    if (has_end != nullptr) {
        *has_end = result == Z_STREAM_END;
    }
    return plain;
}

/// A message as profile.proto says, with all numbers looked up.
struct Message {
    explicit Message(const std::string& plain) {
        pbf_reader strings_first(plain);
        while (strings_first.next()) {
            if (strings_first.tag() == 6) {
                strings.push_back(strings_first.get_string());
            } else {
                strings_first.skip();
            }
        }
        std::map<std::uint64_t, std::string> functions;
        pbf_reader functions_next(plain);
        while (functions_next.next()) {
            if (functions_next.tag() == 5) {
                read_function(functions_next.get_message(), functions);
            } else {
                functions_next.skip();
            }
        }
        pbf_reader all(plain);
        while (all.next()) {
            switch (all.tag()) {
                case 1:
                    sample_types.push_back(read_type(all.get_message()));
                    break;
                case 2:
                    read_sample(all.get_message());
                    break;
                case 4:
                    read_location(all.get_message(), functions);
                    break;
                case 9:
                    time_ns = all.get_int64();
                    break;
                case 10:
                    duration_ns = all.get_int64();
                    break;
                case 11:
                    period_type = read_type(all.get_message());
                    break;
                case 12:
                    period = all.get_int64();
                    break;
                case 13:
                    comments.push_back(text(all.get_int64()));
                    break;
                case 14:
                    default_type = text(all.get_int64());
                    break;
                default:
                    all.skip();
            }
        }
    }

    const std::string& text(std::int64_t index) const {
        return strings.at(static_cast<std::size_t>(index));
    }
    std::string read_type(pbf_reader type) const {
        std::string shown;
        while (type.next()) {
            shown += (shown.empty() ? "" : "/") + text(type.get_int64());
        }
        return shown;
    }
    void read_function(pbf_reader function, std::map<std::uint64_t, std::string>& functions) const {
        std::uint64_t id = 0;
        std::string name;
        std::string file;
        while (function.next()) {
            switch (function.tag()) {
                case 1:
                    id = function.get_uint64();
                    break;
                case 2:
                    name = text(function.get_int64());
                    break;
                case 4:
                    file = text(function.get_int64());
                    break;
                default:
                    function.skip();
            }
        }
        EXPECT_TRUE(functions.emplace(id, file + ":" + name).second) << "an id is used twice";
    }
    void read_location(pbf_reader location, const std::map<std::uint64_t, std::string>& functions) {
        std::uint64_t id = 0;
        std::string shown;
        while (location.next()) {
            if (location.tag() == 1) {
                id = location.get_uint64();
                continue;
            }
            pbf_reader line = location.get_message();
            while (line.next()) {
                shown += line.tag() == 1 ? functions.at(line.get_uint64())
                                         : ":" + std::to_string(line.get_int64());
            }
        }
        EXPECT_TRUE(locations.emplace(id, shown).second) << "an id is used twice";
    }
    /// What a sample refers to stands in front of it.
    void read_sample(pbf_reader sample) {
        std::string stack;
        std::string labels;
        std::int64_t value = 0;
        while (sample.next()) {
            if (sample.tag() == 1) {
                const auto packed = sample.get_packed_uint64();
                const std::vector<std::uint64_t> leaf_first(packed.begin(), packed.end());
                for (std::size_t i = leaf_first.size(); i-- > 0;) {
                    stack += locations.at(leaf_first[i]);
                    stack += i != 0 ? ";" : "";
                }
            } else if (sample.tag() == 2) {
                value = *sample.get_packed_int64().begin();
            } else {
                pbf_reader label = sample.get_message();
                while (label.next()) {
                    const std::int64_t number = label.get_int64();
                    labels += label.tag() == 1   ? " " + text(number) + "="
                              : label.tag() == 2 ? text(number)
                                                 : std::to_string(number);
                }
            }
        }
        samples[stack + labels] += value;
        ++sample_count;
    }

    std::vector<std::string> strings;
    std::vector<std::string> sample_types;
    std::vector<std::string> comments;
    std::map<std::uint64_t, std::string> locations;
    std::map<std::string, std::int64_t> samples;  // stack, root first, and labels
    std::size_t sample_count = 0;
    std::string period_type;
    std::string default_type;
    std::int64_t time_ns = 0;
    std::int64_t duration_ns = 0;
    std::int64_t period = 0;
};

class Pprof : public WriterTest {
  protected:
    Pprof() { begin({}); }
    void begin(const WriterLimits& limits, model::Metric metric = model::Metric::kWallTime) {
        process.reset();
        writer.reset();
        file.reset();  // a file has one writer
        file.emplace(OutputFile::open(path).value());
        writer.emplace(*file, ProfileDescription{metric, 1'700'000'000'000'000'000}, limits);
        process = writer->add_process(42);
        process->thread(0, 0, 7, "M");
    }
    /// After the end: the message.
    Message finish() {
        process.reset();
        writer->finish(5'000'000'000);
        EXPECT_TRUE(file->close());
        bool has_end = false;
        Message message(unpack(read(), &has_end));
        EXPECT_TRUE(has_end);
        return message;
    }
    /// What somebody finds who reads now.
    Message look() {
        writer->flush();
        file->flush();
        while (file->waiting_bytes() != 0) {
            usleep(1000);
        }
        return Message(unpack(read()));
    }

    std::optional<PprofWriter> writer;
    std::unique_ptr<model::StackSink> process;
};

TEST_F(Pprof, SaysWhatIsMeasuredAndWhen) {
    writer->add_header("mode", "wall");
    writer->set_interval(1'000'000);
    process->sample(0, 3, {});
    writer->add_footer("samples", "1");
    const Message message = finish();
    EXPECT_EQ(message.strings.front(), "");
    EXPECT_THAT(message.sample_types, ElementsAre("wall/nanoseconds"));
    EXPECT_EQ(message.period_type, "wall/nanoseconds");
    EXPECT_EQ(message.default_type, "wall");
    EXPECT_EQ(message.period, 1'000'000);
    EXPECT_EQ(message.time_ns, 1'700'000'000'000'000'000);
    EXPECT_EQ(message.duration_ns, 5'000'000'000);
    EXPECT_THAT(message.comments, ElementsAre("mode: wall", "samples: 1"));
    EXPECT_THAT(message.samples, ElementsAre(Pair(" pid=42 thread=M tid=7", 3000)));
}

TEST_F(Pprof, MeasuresCpuTime) {
    begin({}, model::Metric::kCpuTime);
    process->sample(0, 1, {});
    const Message message = finish();
    EXPECT_THAT(message.sample_types, ElementsAre("cpu/nanoseconds"));
    EXPECT_EQ(message.period_type, "cpu/nanoseconds");
}

TEST_F(Pprof, AddsUpEqualStacks) {
    process->stack(0, {}, 0, Frames{code(1, "f", 1), code(2, "g", 2)});
    process->sample(0, 1, {});
    process->stack(0, {}, 1, Frames{code(3, "g", 3)});
    process->sample(0, 20, {});
    process->stack(0, {}, 1, Frames{code(2, "g", 2)});
    process->sample(0, 300, {});
    process->thread(1, 4, 8, "w");
    process->stack(1, {}, 0, Frames{code(1, "f", 1)});
    process->sample(1, 4000, {});
    const Message message = finish();
    EXPECT_THAT(
        message.samples,
        UnorderedElementsAre(Pair("a.py:f:1;a.py:g:2 pid=42 thread=M tid=7", 301'000),
                             Pair("a.py:f:1;a.py:g:3 pid=42 thread=M tid=7", 20'000),
                             Pair("a.py:f:1 pid=42 thread=w tid=8 interpreter=4", 4'000'000)));
    EXPECT_EQ(message.sample_count, 3U);
    EXPECT_EQ(message.locations.size(), 3U);
}

TEST_F(Pprof, PutsMarksAndLabelsIntoFramesAndMarksIntoLabels) {
    process->stack(0, {.truncated = true, .invalid = true, .in_gc = true}, 0,
                   Frames{label(1, "Task-1"), code(2, "f", 5)});
    process->sample(0, 1, {});
    process->missed(0, 2, {});
    EXPECT_THAT(
        finish().samples,
        UnorderedElementsAre(Pair(":TRUNCATED:0;:INVALID:0;:Task-1:0;a.py:f:5;:GC:0 mark=GC "
                                  "mark=INVALID mark=TRUNCATED pid=42 thread=M tid=7",
                                  1000),
                             Pair(":MISSED:0 mark=MISSED pid=42 thread=M tid=7", 2000)));
}

TEST_F(Pprof, WritesAllOfAThreadUnderTheNameThatItGets) {
    process->thread(1, 0, 77, "");
    process->sample(1, 1, {});
    process->thread(1, 0, 77, "w");
    process->sample(1, 2, {});
    process->thread(2, 0, 78, "");
    process->sample(2, 3, {});
    process->thread_ended(2);
    EXPECT_THAT(finish().samples,
                UnorderedElementsAre(Pair(" pid=42 thread=w tid=77", 3000),
                                     Pair(" pid=42 thread=thread-78 tid=78", 3000)));
}

TEST_F(Pprof, IsAMessageWheneverItIsRead) {
    std::uint64_t total_ns = 0;
    std::size_t seen = 0;
    for (std::uint64_t round = 1; round <= 50; ++round) {
        process->stack(0, {}, 0, Frames{code(round, "f" + std::to_string(round), 1)});
        process->sample(0, 10, {});
        total_ns += 10'000;
        process->checkpoint();
        const Message message = look();
        std::uint64_t found_ns = 0;
        for (const auto& [stack, value] : message.samples) {
            found_ns += static_cast<std::uint64_t>(value);
        }
        ASSERT_EQ(found_ns, total_ns);
        ASSERT_GT(message.samples.size(), seen);
        seen = message.samples.size();
    }
    EXPECT_EQ(finish().samples.size(), 50U);
}

TEST_F(Pprof, WritesAStackAgainOnlyOnceItHasGrown) {
    process->stack(0, {}, 0, Frames{code(1, "f", 1)});
    for (int second = 1; second <= 1000; ++second) {
        process->sample(0, 1'000'000, {});
        process->checkpoint();
    }
    const Message now = look();
    EXPECT_GE(now.samples.begin()->second, 900'000'000'000);
    EXPECT_LT(now.sample_count, 80U);
    EXPECT_EQ(finish().samples.begin()->second, 1'000'000'000'000);
}

TEST_F(Pprof, LosesNothingWhenItsTableIsFull) {
    // Of 2000 frames each: some 5000 fit into the table.
    Frames deep;
    for (std::uint64_t i = 0; i < 2000; ++i) {
        deep.push_back(code(i, "f", static_cast<std::uint32_t>(i)));
    }
    process->stack(0, {}, 0, deep);
    std::size_t most_bytes = 0;
    for (std::uint64_t round = 0; round < 5500; ++round) {
        process->stack(0, {}, 2000, Frames{code(10'000 + round, "leaf", 1)});
        process->sample(0, 1, {});
        most_bytes = std::max(most_bytes, process->memory_bytes());
    }
    EXPECT_LT(most_bytes, std::size_t{24} << 20);
    EXPECT_GT(writer->records(), 0U) << "the table never was full";
    const Message message = finish();
    std::int64_t total = 0;
    for (const auto& [stack, value] : message.samples) {
        total += value;
    }
    EXPECT_EQ(total, 5'500'000);
}

TEST_F(Pprof, EndsAtAWholeMessageWhenItsOutputIsFull) {
    begin({.output_bytes = 4096});
    std::uint64_t given_us = 0;
    for (std::uint64_t round = 0; round < 5000; ++round) {
        // Names that cannot be compressed well.
        process->stack(0, {}, 0,
                       Frames{code(round, std::to_string(round * 0x9E3779B97F4A7C15U), 1)});
        process->sample(0, 7, {});
        given_us += 7;
        process->checkpoint();
    }
    process->missed(0, 9, {});
    given_us += 9;
    process.reset();
    EXPECT_TRUE(writer->is_full());
    EXPECT_LE(file->appended_bytes(), 4096U);
    EXPECT_GT(file->appended_bytes(), 3900U);
    writer->add_footer("value_cut", std::to_string(writer->value_cut()));
    const Message message = finish();
    std::uint64_t found_us = 0;
    for (const auto& [stack, value] : message.samples) {
        found_us += static_cast<std::uint64_t>(value) / 1000;
    }
    EXPECT_EQ(found_us + writer->value_cut(), given_us);
    EXPECT_THAT(message.comments, Contains("value_cut: " + std::to_string(writer->value_cut())));
}

TEST_F(Pprof, KeepsNumbersOfStringsApartOverProcesses) {
    auto other = writer->add_process(43);
    other->thread(0, 0, 9, "O");
    process->stack(0, {}, 0, Frames{code(1, "f", 1)});
    other->stack(0, {}, 0, Frames{code(1, "other", 1)});
    other->sample(0, 1, {});
    process->sample(0, 2, {});
    other.reset();
    EXPECT_THAT(finish().samples,
                UnorderedElementsAre(Pair("a.py:f:1 pid=42 thread=M tid=7", 2000),
                                     Pair("a.py:other:1 pid=43 thread=O tid=9", 1000)));
}

TEST_F(Pprof, WithoutASampleIsAMessage) {
    writer->add_footer("samples", "0");
    const Message message = finish();
    EXPECT_THAT(message.comments, ElementsAre("samples: 0"));
    EXPECT_TRUE(message.samples.empty());
}

TEST_F(Pprof, OfALongRunIsBoundedInMemory) {
    for (std::uint32_t round = 0; round < 1000; ++round) {
        process->thread(round % 7, 0, round, "t");
        process->stack(round % 7, {}, 0, Frames{code(1, "f", 1)});
        process->sample(round % 7, 1, {});
        process->thread_ended(round % 7);
    }
    EXPECT_LT(process->memory_bytes(), 300'000U);
}

}  // namespace
}  // namespace echion::output
