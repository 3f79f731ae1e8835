#include "sampling/task_labels.h"

#include <cstring>
#include <utility>

namespace echion::sampling {
namespace {

// FNV-1a.
std::uint64_t hash_of(std::string_view text) {
    std::uint64_t hash = 0xcbf29ce484222325;
    for (const char c : text) {
        hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    }
    return hash;
}

}  // namespace

bool TaskLabels::reserve() {
    if (is_reserved_) {
        return true;
    }
    auto slots = FixedArray<std::uint32_t>::make(kSlots);
    auto labels = ReservedArray<Label>::make(kMaxLabels);
    auto texts = ReservedArray<char>::make(kMaxTextBytes);
    if (!slots || !labels || !texts) {
        return false;
    }
    slots_ = std::move(*slots);
    labels_ = std::move(*labels);
    texts_ = std::move(*texts);
    is_reserved_ = true;
    return true;
}

void TaskLabels::begin_tick() {
    ++tick_;
    if (label_count_ > kMaxLabels / 4 * 3 || text_bytes_ > kMaxTextBytes / 4 * 3) {
        std::memset(slots_.data(), 0, kSlots * sizeof(slots_[0]));
        label_count_ = 0;
        text_bytes_ = 0;
        ++numbering_;
    }
}

cpython::RawFrame TaskLabels::frame_of(std::string_view name) {
    // The label of no place: the name of it is that of an unknown code object.
    const cpython::RawFrame unknown{Address(1), 0};
    if (!reserve()) {
        ++overflows_;
        return unknown;
    }
    name = name.substr(0, kMaxNameBytes);
    const std::uint64_t hash = hash_of(name);
    std::size_t slot = hash % kSlots;
    while (slots_[slot] != 0) {
        const Label& label = labels_[slots_[slot] - 1];
        if (label.hash == hash && text(label) == name) {
            return {Address((std::uintptr_t{slots_[slot]} << 1) | 1), 0};
        }
        slot = (slot + 1) % kSlots;
    }
    if (!labels_.grow_to(label_count_ + 1) || !texts_.grow_to(text_bytes_ + name.size())) {
        ++overflows_;
        return unknown;
    }
    std::memcpy(texts_.data() + text_bytes_, name.data(), name.size());
    labels_[label_count_] = {hash, 0, static_cast<std::uint32_t>(text_bytes_),
                             static_cast<std::uint32_t>(name.size())};
    text_bytes_ += name.size();
    slots_[slot] = static_cast<std::uint32_t>(++label_count_);
    return {Address((std::uintptr_t{slots_[slot]} << 1) | 1), 0};
}

std::uint32_t TaskLabels::find_id(TickStream& ticks, Address label) {
    const std::uintptr_t place = label.value() >> 1;
    if (place == 0 || place > label_count_) {
        return code::CodeRegistry::kUnknownCode;
    }
    Label& known = labels_[place - 1];
    const auto id = static_cast<std::uint32_t>(kFirstId + place);
    if (known.told == 0) {
        ticks.encoder().label(id, text(known));
        known.told = tick_;
    }
    return id;
}

void TaskLabels::forget_tick() {
    for (std::size_t i = 0; i < label_count_; ++i) {
        if (labels_[i].told == tick_) {
            labels_[i].told = 0;
        }
    }
}

}  // namespace echion::sampling
