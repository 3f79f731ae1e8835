#include "sampling/tick_stream.h"

#include <algorithm>

#include "sampling/code_writer.h"

namespace echion::sampling {
namespace {

// A tick that grows beyond this goes on in another batch.
constexpr std::size_t kBatchBytes = stream::kMaxBatchBytes / 4;
// So that whatever comes next, a stack or a code object's names and line table, fits in.
constexpr std::size_t kMostFrameBytes = 10;
static_assert(kBatchBytes + kMostFrameBytes * stream::kMaxFrames < stream::kMaxBatchBytes);
static_assert(kBatchBytes + stream::kMaxLineTableBytes + 4 * stream::kMaxTextBytes <
              stream::kMaxBatchBytes);

}  // namespace

void TickStream::start(stream::RingProducer& ring, std::int64_t start_ns, std::int64_t interval_ns,
                       bool cpu_mode, const cpython::Version& version) {
    encoder_.emplace(ring);
    interval_ns_ = interval_ns;
    cpu_mode_ = cpu_mode;
    now_ns_ = tick_ns_ = last_look_ns_ = start_ns;
    encoder_->begin_start(static_cast<std::uint64_t>(start_ns), version.major, version.minor,
                          version.micro);
}

void TickStream::begin(std::int64_t at_ns) {
    at_ns = std::max(at_ns, tick_ns_);
    encoder_->begin_tick(static_cast<std::uint64_t>(at_ns - tick_ns_));
    part_since_ns_ = tick_ns_;
    tick_ns_ = at_ns;
}

void TickStream::continue_at(std::int64_t at_ns) {
    if (!cpu_mode_ && at_ns - tick_ns_ > longest_gap_ns()) {
        commit();
        encoder_->continue_tick(static_cast<std::uint64_t>(at_ns - tick_ns_));
        part_since_ns_ = tick_ns_;
        tick_ns_ = at_ns;
    }
}

void TickStream::end_part() {
    commit();
    encoder_->continue_tick(1);
    ++tick_ns_;
}

void TickStream::define(const code::CodeDefinition& code) { write_code(*encoder_, code); }

void TickStream::commit() {
    if (!encoder_->commit()) {
        listener_.on_void_batch();
    }
}

void TickStream::split() {
    if (encoder_->batch_bytes() > kBatchBytes) {
        commit();
        encoder_->continue_tick(0);
    }
}

void TickStream::finish() {
    has_looked_ = true;
    last_look_ns_ = now_ns_;
    commit();
}

}  // namespace echion::sampling
