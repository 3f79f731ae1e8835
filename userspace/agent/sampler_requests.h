#pragma once

#include <cstdint>

#include "agent/channel.h"
#include "agent/dump.h"
#include "agent/layout_proof.h"
#include "engine/tick_timer.h"

namespace echion::agent {

/// The requests to a sampler that waits for its tick: for dumps, and to stop, which comes through
/// the channel. Sampler thread only.
class SamplerRequests final : public engine::RequestSource {
  public:
    /// All must outlive this object. A dump waits while `proof` allows no samples.
    SamplerRequests(Channel& channel, StackDump& dump, const LayoutProof& proof)
        : channel_(channel), dump_(dump), proof_(proof) {}

    void serve() override {
        if (proof_.allows_samples()) {
            dump_.serve();
        }
    }
    bool wait_for_stop(std::int64_t wait_ns) override { return channel_.wait_for_stop(wait_ns); }
    [[nodiscard]] int fd() const override { return channel_.fd(); }

  private:
    Channel& channel_;
    StackDump& dump_;
    const LayoutProof& proof_;
};

}  // namespace echion::agent
