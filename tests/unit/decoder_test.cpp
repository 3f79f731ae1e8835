#include "stream/decoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "stream/encoder.h"
#include "stream/utf8.h"

namespace echion::stream {
namespace {

using testing::ElementsAre;

/// Writes every event down as one line of text.
class Log final : public model::ProfileEvents {
  public:
    std::vector<std::string> lines;

    void start(std::uint64_t now_ns, model::PythonVersion version) override {
        add("start", now_ns, +version.major, +version.minor, +version.micro);
    }
    void tick(std::uint64_t ns) override { add("tick", ns); }
    void lost(std::uint64_t ticks, std::uint64_t ns) override { add("lost", ticks, ns); }
    void code(std::uint32_t code_id, const model::CodeView& code) override {
        add("code", code_id, static_cast<int>(code.kind), code.first_line, code.name,
            code.qualified_name, code.file_name, code.line_table.size());
    }
    void thread(std::uint32_t thread_id, std::int64_t interpreter_id,
                std::uint32_t native_thread_id, std::string_view name) override {
        add("thread", thread_id, interpreter_id, native_thread_id, name);
    }
    void thread_end(std::uint32_t thread_id) override { add("end", thread_id); }
    void stack(std::uint32_t thread_id, model::StackMarks marks, std::uint32_t kept,
               std::span<const model::FrameLocation> frames) override {
        std::string text;
        for (const auto& frame : frames) {
            text += std::to_string(frame.code_id) + "@" + std::to_string(frame.offset) + ",";
        }
        add("stack", thread_id, marks.truncated, marks.invalid, marks.in_gc, kept, text);
    }
    void cpu(std::uint32_t thread_id, std::uint64_t ns) override { add("cpu", thread_id, ns); }
    void missed(std::uint32_t thread_id, std::uint64_t ns) override {
        add("missed", thread_id, ns);
    }
    void share(std::uint32_t thread_id, std::uint32_t parts) override {
        add("share", thread_id, parts);
    }

  private:
    static std::string text_of(std::string_view text) { return std::string(text); }
    template <typename T>
    requires std::is_arithmetic_v<T>
    static std::string text_of(T value) { return std::to_string(value); }
    template <typename... Fields>
    void add(const char* name, const Fields&... fields) {
        std::string line(name);
        ((line += ' ', line += text_of(fields)), ...);
        lines.push_back(line);
    }
};

/// An encoder whose batches go through a real ring into a decoder.
class Pipe {
  public:
    explicit Pipe(DecoderLimits limits = {}) : decoder(log, limits) {
        const UniqueFd fd = make_ring(kDefaultRingBytes).value();
        producer = RingProducer(RingMapping::open(fd.get()).value());
        consumer = RingConsumer(RingMapping::open(fd.get()).value());
    }

    Status pump() {
        std::vector<std::byte> buffer(kMaxBatchBytes);
        for (;;) {
            const auto size = consumer.read_batch(buffer);
            if (!size || *size == 0) {
                return {};
            }
            if (auto status = decoder.decode({buffer.data(), *size}); !status) {
                return status;
            }
        }
    }
    Status start() {
        encoder.begin_start(1000, 3, 12, 1);
        EXPECT_TRUE(encoder.commit());
        return pump();
    }
    Status tick(const std::function<void(Encoder&)>& records) {
        encoder.begin_tick(5);
        records(encoder);
        EXPECT_TRUE(encoder.commit());
        return pump();
    }

    Log log;
    Decoder decoder;
    RingProducer producer;
    RingConsumer consumer;
    Encoder encoder{producer};
};

/// All of a ring's next batch.
std::vector<std::byte> read_batch(Pipe& pipe) {
    std::vector<std::byte> batch(kMaxBatchBytes);
    batch.resize(pipe.consumer.read_batch(batch).value());
    return batch;
}

TEST(Decoder, StopsBetweenRecordsAndGoesOn) {
    Pipe pipe;
    ASSERT_TRUE(pipe.start());
    pipe.encoder.begin_tick(5);
    pipe.encoder.thread(1, 0, 10, "a");
    pipe.encoder.thread(2, 0, 11, "b");
    pipe.encoder.cpu(1, 7);
    ASSERT_TRUE(pipe.encoder.commit());
    const auto batch = read_batch(pipe);
    std::size_t at = 0;
    int calls = 0;
    for (; at < batch.size(); ++calls) {
        int left = calls == 0 ? 0 : 1;
        const auto done =
            pipe.decoder.decode_some(std::span(batch).subspan(at), [&left] { return left-- > 0; });
        ASSERT_TRUE(done);
        at += *done;
    }
    EXPECT_EQ(calls, 4);
    EXPECT_THAT(pipe.log.lines, ElementsAre("start 1000 3 12 1", "tick 5", "thread 1 0 10 a",
                                            "thread 2 0 11 b", "cpu 1 7"));
    ASSERT_TRUE(pipe.tick([](Encoder& to) { to.thread_end(2); }));
}

TEST(Decoder, TakesNoMoreFramesThanWereAskedFor) {
    Pipe pipe({.stack_frames = 3});
    ASSERT_TRUE(pipe.start());
    const std::vector<FrameRef> frames(4, FrameRef{0, 0});
    ASSERT_TRUE(pipe.tick([&](Encoder& to) {
        to.label(0, "f");
        to.thread(0, 0, 1, "a");
        to.stack(0, 0, 0, std::span(frames).first(3));
        to.stack(0, 0, 2, std::span(frames).first(1));
    }));
    EXPECT_FALSE(pipe.tick([&](Encoder& to) { to.stack(0, 0, 3, std::span(frames).first(1)); }));
}

TEST(Decoder, MakesOfEveryRecordWhatTheEncoderWasTold) {
    Pipe pipe;
    ASSERT_TRUE(pipe.start());
    const std::byte table[3] = {};
    const FrameRef frames[] = {{0, -2}, {1'000'000, 0}, {0, 2'000'000'000}};
    ASSERT_TRUE(pipe.tick([&](Encoder& to) {
        to.code(0, CodeKind::kLocations, 77, "f", "C.f", "/a.py", table);
        to.code(1, CodeKind::kLines, 77, "g", "", "/a.py", {});
        to.label(1'000'000, "Task-1");
        to.thread(9, -1, 4'000'000'000, "Main");
        to.stack(9, kStackInGc | kStackTruncated, 0, frames);
        to.cpu(9, 123'456'789'012);
        to.missed(9, 77);
        to.share(9, 3);
    }));
    ASSERT_TRUE(pipe.tick([&](Encoder& to) {
        to.stack(9, kStackInvalid, 2, {});
        to.thread_end(9);
    }));
    EXPECT_THAT(pipe.log.lines,
                ElementsAre("start 1000 3 12 1", "tick 5", "code 0 2 77 f C.f /a.py 3",
                            "code 1 3 77 g  /a.py 0", "code 1000000 4 0 Task-1   0",
                            "thread 9 -1 4000000000 Main",
                            "stack 9 1 0 1 0 0@-2,1000000@0,0@2000000000,", "cpu 9 123456789012",
                            "missed 9 77", "share 9 3", "tick 5", "stack 9 0 1 0 2 ", "end 9"));
}

TEST(Decoder, ReportsLossBehindTheTick) {
    Pipe pipe;
    ASSERT_TRUE(pipe.start());
    const std::vector<FrameRef> too_many(kMaxFrames + 1);
    pipe.encoder.begin_tick(40);
    pipe.encoder.stack(0, 0, 0, too_many);
    ASSERT_FALSE(pipe.encoder.commit());
    ASSERT_TRUE(pipe.tick([](Encoder&) {}));
    EXPECT_THAT(pipe.log.lines, ElementsAre("start 1000 3 12 1", "tick 5", "lost 1 40"));
}

TEST(Decoder, KeepsNothingOfTheStacksInFrontOfALoss) {
    Pipe pipe;
    ASSERT_TRUE(pipe.start());
    const FrameRef frame{0, 0};
    ASSERT_TRUE(pipe.tick([&](Encoder& to) {
        to.label(0, "x");
        to.thread(0, 0, 1, "t");
        to.stack(0, 0, 0, {&frame, 1});
    }));
    pipe.encoder.begin_tick(1);
    pipe.encoder.stack(0, 0, 0, std::vector<FrameRef>(kMaxFrames + 1));
    ASSERT_FALSE(pipe.encoder.commit());
    EXPECT_FALSE(pipe.tick([&](Encoder& to) { to.stack(0, 0, 1, {}); }));
}

TEST(Decoder, CutsLongTextsAtACharacter) {
    Pipe pipe;
    ASSERT_TRUE(pipe.start());
    std::string name(kMaxTextBytes - 1, 'a');
    ASSERT_TRUE(pipe.tick([&](Encoder& to) { to.thread(0, 0, 1, name + "\u00e9z"); }));
    EXPECT_EQ(pipe.log.lines.back(), "thread 0 0 1 " + name);
}

TEST(Decoder, RepairsTextsThatAreNotUtf8) {
    Pipe pipe;
    ASSERT_TRUE(pipe.start());
    ASSERT_TRUE(pipe.tick([](Encoder& to) { to.thread(0, 0, 1, "a\xed\xb2\x80z\xff"); }));
    EXPECT_EQ(pipe.log.lines.back(), "thread 0 0 1 a\uFFFD\uFFFD\uFFFDz\uFFFD");
}

TEST(Decoder, LetsAThreadEndThatItHasNotHeardOf) {
    Pipe pipe;
    ASSERT_TRUE(pipe.start());
    ASSERT_TRUE(pipe.tick([](Encoder& to) { to.thread_end(7); }));
    EXPECT_EQ(pipe.log.lines.back(), "tick 5");
}

// What a well-meaning encoder can be made to write that the decoder must refuse.
struct BadBatch {
    const char* name;
    void (*records)(Encoder&);
};

class DecoderRefuses : public testing::TestWithParam<BadBatch> {};

TEST_P(DecoderRefuses, ItAndEverythingAfterIt) {
    Pipe pipe;
    ASSERT_TRUE(pipe.start());
    const FrameRef frame{0, 0};
    ASSERT_TRUE(pipe.tick([&](Encoder& to) {
        to.label(0, "x");
        to.thread(0, 0, 1, "t");
        to.stack(0, 0, 0, {&frame, 1});
    }));
    const auto status = pipe.tick(GetParam().records);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().kind, ErrorKind::kProtocol);
    EXPECT_FALSE(pipe.tick([](Encoder&) {}));
}

const FrameRef kUnknownCode{1, 0};
const FrameRef kFarCode{kMaxCodes, 0};

INSTANTIATE_TEST_SUITE_P(
    Hostile, DecoderRefuses,
    testing::Values(
        BadBatch{"StackOfUnknownThread", [](Encoder& to) { to.stack(1, 0, 0, {}); }},
        BadBatch{"StackOfFarThread", [](Encoder& to) { to.stack(~0U, 0, 0, {}); }},
        BadBatch{"StackKeepsTooMuch", [](Encoder& to) { to.stack(0, 0, 2, {}); }},
        BadBatch{"StackWithUnknownFlags", [](Encoder& to) { to.stack(0, 8, 0, {}); }},
        BadBatch{"StackOfUnknownCode",
                 [](Encoder& to) {
                     to.stack(0, 0, 0, {&kUnknownCode, 1});
                 }},
        BadBatch{"StackOfFarCode",
                 [](Encoder& to) {
                     to.stack(0, 0, 0, {&kFarCode, 1});
                 }},
        BadBatch{"StackOfEndedThread",
                 [](Encoder& to) {
                     to.thread_end(0);
                     to.stack(0, 0, 0, {});
                 }},
        BadBatch{"CpuOfUnknownThread", [](Encoder& to) { to.cpu(5, 1); }},
        BadBatch{"MissedOfUnknownThread", [](Encoder& to) { to.missed(5, 1); }},
        BadBatch{"ShareOfUnknownThread", [](Encoder& to) { to.share(5, 1); }},
        BadBatch{"ShareOfTooMany", [](Encoder& to) { to.share(0, kMaxThreads + 1); }},
        BadBatch{"MissedAges", [](Encoder& to) { to.missed(0, ~std::uint64_t{0}); }},
        BadBatch{"CpuOfAges", [](Encoder& to) { to.cpu(0, ~std::uint64_t{0}); }},
        BadBatch{"ThreadIdOutOfBounds", [](Encoder& to) { to.thread(kMaxThreads, 0, 0, ""); }},
        BadBatch{"CodeIdOutOfBounds", [](Encoder& to) { to.label(kMaxCodes, ""); }},
        BadBatch{"UnknownCodeKind",
                 [](Encoder& to) { to.code(0, static_cast<CodeKind>(9), 0, "", "", "", {}); }},
        BadBatch{"FarFirstLine",
                 [](Encoder& to) { to.code(0, CodeKind::kLnotab, ~0U, "", "", "", {}); }}),
    [](const auto& test) { return test.param.name; });

TEST(DecoderBytes, OfEveryKindOfDamageAreRefused) {
    using Bytes = std::vector<unsigned char>;
    const Bytes start = {1, kStreamVersion, 0, 0, 0, 5, 3, 12, 1};
    const struct {
        const char* what;
        std::vector<Bytes> batches;
    } cases[] = {
        {"empty batch", {{}}},
        {"tick in place of start", {{2, 5}}},
        {"start of another version", {{1, kStreamVersion + 1, 0, 0, 0, 5, 3, 12, 1}}},
        {"start cut short", {{1, 1, 0, 0, 0, 5, 3, 12}}},
        {"second start", {start, start}},
        {"start within a batch", {start, {2, 5, 1, 1, 0, 0, 0, 5, 3, 12, 1}}},
        {"tick within a batch", {start, {2, 5, 2, 5}}},
        {"lost not behind the tick", {start, {2, 5, 5, 1, 8, 1, 1}}},
        {"lost twice", {start, {2, 5, 8, 1, 1, 8, 1, 1}}},
        {"lost cut short", {start, {2, 5, 8, 1}}},
        {"unknown type", {start, {2, 5, 200}}},
        {"type 0", {start, {2, 5, 0}}},
        {"varint without end", {start, {2, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1}}},
        {"varint of 65 bits", {start, {2, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2}}},
        {"text longer than the batch", {start, {2, 5, 4, 0, 0, 1, 9, 'x'}}},
        {"text longer than allowed", {start, {2, 5, 4, 0, 0, 1, 0x81, 0x20, 'x'}}},
        {"line table longer than the batch", {start, {2, 5, 3, 0, 0, 1, 0, 0, 0, 50, 1}}},
        {"offset beyond 32 bits",
         {start, {2, 5, 3, 0, 255, 0, 0, 0,    0,    0,    4,    0,    0,   1,
                  0, 6, 0, 0, 0,   1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}}},
        {"more frames than bytes", {start, {2, 5, 4, 0, 0, 1, 0, 6, 0, 0, 0, 0xff, 0x7f, 0, 0}}},
        {"more frames than allowed",
         {start, {2, 5, 4, 0, 0, 1, 0, 6, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x7f}}},
    };
    for (const auto& one : cases) {
        Log log;
        Decoder decoder(log);
        Status status;
        for (const Bytes& batch : one.batches) {
            status = decoder.decode(std::as_bytes(std::span(batch)));
        }
        ASSERT_FALSE(status) << one.what;
        EXPECT_EQ(status.error().kind, ErrorKind::kProtocol) << one.what;
    }
}

TEST(DecoderLimitsTest, BoundWhatDefinitionsMayTake) {
    Pipe pipe({.definition_bytes = 10'000, .live_frames = 100});
    ASSERT_TRUE(pipe.start());
    const std::string name(1000, 'n');
    // One id again and again takes no more than once.
    for (int i = 0; i < 100; ++i) {
        ASSERT_TRUE(pipe.tick([&](Encoder& to) { to.label(0, name); }));
    }
    Status status;
    for (std::uint32_t id = 1; id < 20 && status; ++id) {
        status = pipe.tick([&](Encoder& to) { to.label(id, name); });
    }
    EXPECT_FALSE(status);
}

TEST(DecoderLimitsTest, BoundTheFramesOfAllStacks) {
    Pipe pipe({.live_frames = 100});
    ASSERT_TRUE(pipe.start());
    const std::vector<FrameRef> frames(40);
    ASSERT_TRUE(pipe.tick([&](Encoder& to) { to.label(0, "x"); }));
    for (std::uint32_t id = 0; id < 10; ++id) {  // ended threads count no more
        ASSERT_TRUE(pipe.tick([&](Encoder& to) {
            to.thread(id, 0, 1, "t");
            to.stack(id, 0, 0, frames);
            to.thread_end(id);
        }));
    }
    ASSERT_TRUE(pipe.tick([&](Encoder& to) {
        for (std::uint32_t id = 0; id < 2; ++id) {
            to.thread(id, 0, 1, "t");
            to.stack(id, 0, 0, frames);
        }
        to.stack(0, 0, 30, {});
    }));
    EXPECT_FALSE(pipe.tick([&](Encoder& to) {
        to.thread(2, 0, 1, "t");
        to.stack(2, 0, 0, frames);
    }));
}

TEST(Utf8, WellFormedTextIsLeftAlone) {
    std::string storage;
    for (const std::string_view text :
         {"", "plain", "\u00e9\u07ff\u0800\ud7ff\ue000\uffff", "\U00010000\U0010ffff"}) {
        EXPECT_EQ(repair_utf8(text, storage).data(), text.data());
    }
}

TEST(Utf8, IllFormedBytesAreReplacedOneByOne) {
    std::string storage;
    EXPECT_EQ(repair_utf8("\x80", storage), "\uFFFD");
    EXPECT_EQ(repair_utf8("\xc0\xaf", storage), "\uFFFD\uFFFD");            // overlong
    EXPECT_EQ(repair_utf8("\xe0\x9f\x80", storage), "\uFFFD\uFFFD\uFFFD");  // overlong
    EXPECT_EQ(repair_utf8("\xed\xa0\x80", storage), "\uFFFD\uFFFD\uFFFD");  // surrogate
    EXPECT_EQ(repair_utf8("\xf4\x90\x80\x80", storage), "\uFFFD\uFFFD\uFFFD\uFFFD");
    EXPECT_EQ(repair_utf8("\xf0\x9f\x98", storage), "\uFFFD\uFFFD\uFFFD");  // cut short
    EXPECT_EQ(repair_utf8("a\xc3(b", storage), "a\uFFFD(b");
}

}  // namespace
}  // namespace echion::stream
