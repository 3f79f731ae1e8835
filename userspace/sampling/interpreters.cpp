#include "sampling/interpreters.h"

#include <utility>

namespace echion::sampling {

Result<Interpreters> Interpreters::make(const cpython::Layout& layout) {
    auto interpreters = FixedArray<Interpreter>::make(cpython::kMaxInterpreters);
    auto gils = FixedArray<Gil>::make(cpython::kMaxInterpreters);
    if (!interpreters || !gils) {
        return fail(ErrorKind::kNoSpace, "reserve memory for interpreters");
    }
    Interpreters made;
    made.interpreters_ = std::move(*interpreters);
    made.gils_ = std::move(*gils);
    made.are_free_threaded_ = layout.free_threaded;
    made.lends_states_ =
        cpython::has(layout.runtime.tstate_current) || cpython::has(layout.thread_state.cframe);
    return made;
}

bool Interpreters::are(std::span<const cpython::InterpreterHead> heads) const {
    bool same = heads.size() == count_;
    for (std::size_t i = 0; same && i < heads.size(); ++i) {
        const cpython::InterpreterHead& known = interpreters_[i].head;
        same = heads[i].interpreter == known.interpreter && heads[i].id == known.id &&
               heads[i].gil == known.gil;
    }
    return same;
}

Interpreters::Moves Interpreters::find_moves(
    std::span<const cpython::InterpreterHead> heads) const {
    Moves moves;
    moves.fill(kGone);
    for (std::uint32_t old = 0; old < count_; ++old) {
        for (std::uint32_t i = 0; i < heads.size(); ++i) {
            if (heads[i].interpreter == interpreters_[old].head.interpreter &&
                heads[i].id == interpreters_[old].head.id) {
                moves[old] = i;
            }
        }
    }
    return moves;
}

void Interpreters::replace(std::span<const cpython::InterpreterHead> heads) {
    count_ = static_cast<std::uint32_t>(heads.size());
    gil_count_ = 0;
    for (std::uint32_t i = 0; i < count_; ++i) {
        std::uint32_t gil = 0;
        while (gil < gil_count_ && gils_[gil].address != heads[i].gil) {
            ++gil;
        }
        if (gil == gil_count_) {
            gils_[gil_count_++] = Gil{heads[i].gil, {}, false, Address(), 0, 0};
        }
        interpreters_[i] = Interpreter{};
        interpreters_[i].head = heads[i];
        interpreters_[i].gil = gil;
    }
}

void Interpreters::mark_lists() {
    for (std::uint32_t i = 0; i < count_; ++i) {
        interpreters_[i].list_changed = true;
    }
}

std::uint64_t Interpreters::ask_for_lists() {
    mark_lists();
    return ++asks_;
}

bool Interpreters::have_been_walked(std::uint64_t ask) const {
    for (std::uint32_t i = 0; i < count_; ++i) {
        if (interpreters_[i].walked < ask) {
            return false;
        }
    }
    return true;
}

bool Interpreters::has_changed_lists() const {
    for (std::uint32_t i = 0; i < count_; ++i) {
        if (interpreters_[i].list_changed) {
            return true;
        }
    }
    return false;
}

void Interpreters::mark_lists_of(std::uint32_t gil_index) {
    for (std::uint32_t i = 0; i < count_; ++i) {
        interpreters_[i].list_changed |= interpreters_[i].gil == gil_index;
    }
}

bool Interpreters::is_shared(std::uint32_t gil_index) const {
    std::uint32_t sharers = 0;
    for (std::uint32_t i = 0; i < count_; ++i) {
        sharers += interpreters_[i].gil == gil_index;
    }
    return sharers > 1;
}

}  // namespace echion::sampling
