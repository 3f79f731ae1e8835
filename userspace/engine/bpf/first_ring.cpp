#include "engine/bpf/first_ring.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <utility>

namespace echion::engine {

UniqueFd make_snapshot_ring(std::uint32_t size_bytes) {
    return UniqueFd(
        bpf_map_create(BPF_MAP_TYPE_RINGBUF, "echion_stacks", 0, 0, size_bytes, nullptr));
}

FirstRing::FirstRing(bpf_map* rings, std::uint32_t max_targets, std::uint32_t ring_bytes)
    : ring_(make_snapshot_ring(ring_bytes)) {
    if (!ring_) {
        return;
    }
    LIBBPF_OPTS(bpf_map_create_opts, options,
                .inner_map_fd = static_cast<std::uint32_t>(ring_.get()));
    map_.reset(bpf_map_create(BPF_MAP_TYPE_ARRAY_OF_MAPS, bpf_map__name(rings),
                              sizeof(std::uint32_t), sizeof(std::uint32_t), max_targets, &options));
    if (!map_ || bpf_map__reuse_fd(rings, map_.get()) != 0) {
        return;
    }
    entered_ = std::async(std::launch::async, [map = map_.get(), ring = ring_.get()] {
        return bpf_map_update_elem(map, &kTarget, &ring, BPF_ANY) == 0;
    });
}

UniqueFd FirstRing::take() {
    return entered_.valid() && entered_.get() ? std::move(ring_) : UniqueFd();
}

}  // namespace echion::engine
