#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/unique_fd.h"
#include "code/code_registry.h"
#include "model/profile_events.h"
#include "sampling/tick_stream.h"
#include "stream/decoder.h"
#include "stream/ring.h"

namespace echion::test {

/// A stream of ticks through a real ring, and what the program at its other end knows: each code
/// and thread as it was last told of, and how often it was told of anything.
class RecordedStream final : public model::ProfileEvents, private sampling::VoidBatchListener {
  public:
    struct Thread {
        std::int64_t interpreter_id;
        std::uint32_t native_id;
        std::string name;
        std::string stack{};  ///< names, root first, with blanks between them
        model::StackMarks marks{};
        std::uint32_t parts = 1;
        std::uint64_t missed_ns = 0;
    };

    RecordedStream() {
        const UniqueFd fd = stream::make_ring().value();
        ring_ = stream::RingProducer(stream::RingMapping::open(fd.get()).value());
        consumer_ = stream::RingConsumer(stream::RingMapping::open(fd.get()).value());
        ticks_.start(ring_, 0, kIntervalNs, false, {3, 14, 0});
        ticks_.encoder().label(code::CodeRegistry::kUnknownCode, "<unknown>");
        end_tick();
        definitions = 0;
        begin_tick();
    }

    sampling::TickStream& ticks() { return ticks_; }
    void begin_tick() {
        now_ns_ += kIntervalNs;
        ticks_.begin_look(now_ns_);
        ticks_.begin(now_ns_);
    }
    /// Ends the tick, and has it read.
    void end_tick() {
        ticks_.finish();
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

    static constexpr std::int64_t kIntervalNs = 1'000'000;

    std::map<std::uint32_t, std::string> codes;
    std::map<std::uint32_t, Thread> threads;  ///< those that have not ended
    std::size_t definitions = 0;
    std::size_t starts = 0;
    std::size_t stacks = 0;
    std::size_t shares = 0;
    std::size_t ends = 0;

  private:
    void on_void_batch() override { FAIL() << "there is no room in the ring"; }

    void start(std::uint64_t, model::PythonVersion) override {}
    void tick(std::uint64_t) override {}
    void lost(std::uint64_t, std::uint64_t) override {}
    void code(std::uint32_t id, const model::CodeView& code) override {
        ++definitions;
        codes[id] = code.name;
    }
    void thread(std::uint32_t id, std::int64_t interpreter_id, std::uint32_t native_id,
                std::string_view name) override {
        ++starts;
        threads[id] = {interpreter_id, native_id, std::string(name)};
    }
    void thread_end(std::uint32_t id) override {
        ++ends;
        threads.erase(id);
    }
    void stack(std::uint32_t id, model::StackMarks marks, std::uint32_t kept,
               std::span<const model::FrameLocation> frames) override {
        ++stacks;
        ASSERT_EQ(kept, 0U) << "frames of a stack before are not recorded";
        Thread& thread = threads.at(id);
        thread.marks = marks;
        thread.stack.clear();
        for (const model::FrameLocation& frame : frames) {
            thread.stack += (thread.stack.empty() ? "" : " ") + codes.at(frame.code_id);
        }
    }
    void cpu(std::uint32_t, std::uint64_t) override {}
    void missed(std::uint32_t id, std::uint64_t ns) override { threads.at(id).missed_ns += ns; }
    void share(std::uint32_t id, std::uint32_t parts) override {
        ++shares;
        threads.at(id).parts = parts;
    }

    stream::RingProducer ring_;
    stream::RingConsumer consumer_;
    sampling::TickStream ticks_{*this};
    stream::Decoder decoder_{*this};
    std::vector<std::byte> buffer_ = std::vector<std::byte>(stream::kMaxBatchBytes);
    std::int64_t now_ns_ = 0;
};

}  // namespace echion::test
