#include "model/cpu_ledger.h"

#include <limits>

namespace echion::model {
namespace {

// What is not worth a line: the last microsecond, which rounding takes as well.
constexpr std::uint64_t kLeastNs = 1000;

// Thread ids that are kept apart, of all that an agent ever tells of; the rest is not settled.
constexpr std::size_t kMaxAccounts = std::size_t{1} << 18;

// Of the names of all of those; one without is told by its number when its time is settled. Threads
// that have ended keep theirs.
constexpr std::size_t kMaxNamesBytes = std::size_t{32} << 20;
// Of a node of a hash map: its allocation, its share of the buckets.
constexpr std::size_t kMapNodeBytes = 32;

std::uint64_t add_capped(std::uint64_t a, std::uint64_t b) {
    const std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
    return b > most - a ? most : a + b;
}

}  // namespace

void CpuLedger::tick(std::uint64_t ns) {
    if (ns != 0 && has_stale_) {
        has_stale_ = false;
        for (std::uint32_t id = 0; id < native_ids_.size(); ++id) {
            if (is_stale_[id]) {
                end(id);
            }
        }
    }
    next_.tick(ns);
}

void CpuLedger::lost(std::uint64_t ticks, std::uint64_t ns) {
    is_stale_.assign(native_ids_.size(), true);
    has_stale_ = true;
    next_.lost(ticks, ns);
}

void CpuLedger::thread(std::uint32_t thread_id, std::int64_t interpreter_id,
                       std::uint32_t native_thread_id, std::string_view name) {
    if (thread_id >= kFirstTaskThread) {
        next_.thread(thread_id, interpreter_id, native_thread_id, name);
        return;
    }
    if (thread_id >= native_ids_.size()) {
        native_ids_.resize(thread_id + 1);
        is_stale_.resize(thread_id + 1);
    }
    if (native_ids_[thread_id] != native_thread_id) {
        end(thread_id);  // the end was lost, and the number is another thread's now
    }
    native_ids_[thread_id] = native_thread_id;
    is_stale_[thread_id] = false;
    if (native_thread_id != 0 &&
        (accounts_.size() < kMaxAccounts || accounts_.count(native_thread_id) != 0)) {
        Account& account = accounts_[native_thread_id];
        account.thread_id = thread_id;
        names_bytes_ -= account.name.size();
        account.name = names_bytes_ + name.size() <= kMaxNamesBytes ? name : std::string_view();
        names_bytes_ += account.name.size();
    }
    next_.thread(thread_id, interpreter_id, native_thread_id, name);
}

void CpuLedger::thread_end(std::uint32_t thread_id) {
    if (thread_id < native_ids_.size()) {
        end(thread_id);
    }
    next_.thread_end(thread_id);
}

void CpuLedger::stack(std::uint32_t thread_id, StackMarks marks, std::uint32_t kept,
                      std::span<const FrameLocation> frames) {
    if (thread_id < is_stale_.size()) {
        is_stale_[thread_id] = false;
    }
    next_.stack(thread_id, marks, kept, frames);
}

void CpuLedger::end(std::uint32_t thread_id) {
    const auto account = accounts_.find(native_ids_[thread_id]);
    if (account != accounts_.end() && account->second.thread_id == thread_id) {
        account->second.thread_id = kNone;
    }
    native_ids_[thread_id] = 0;
    is_stale_[thread_id] = false;
}

void CpuLedger::note_told(std::uint32_t thread_id, std::uint64_t ns) {
    const auto account =
        thread_id < native_ids_.size() ? accounts_.find(native_ids_[thread_id]) : accounts_.end();
    if (account != accounts_.end()) {
        account->second.told_ns = add_capped(account->second.told_ns, ns);
        account->second.thread_id = thread_id;  // of several Python states, the one that runs
    }
}

void CpuLedger::cpu(std::uint32_t thread_id, std::uint64_t ns) {
    note_told(thread_id, ns);
    next_.cpu(thread_id, ns);
}

void CpuLedger::missed(std::uint32_t thread_id, std::uint64_t ns) {
    note_told(thread_id, ns);
    next_.missed(thread_id, ns);
}

std::size_t CpuLedger::memory_bytes() const {
    return accounts_.size() * (sizeof(std::pair<std::uint32_t, Account>) + kMapNodeBytes) +
           names_bytes_ + native_ids_.capacity() * sizeof(native_ids_[0]) +
           is_stale_.capacity() / 8;
}

std::optional<std::uint32_t> CpuLedger::find(std::uint32_t native_thread_id) const {
    const auto account = accounts_.find(native_thread_id);
    if (account == accounts_.end() || account->second.thread_id == kNone) {
        return std::nullopt;
    }
    return account->second.thread_id;
}

void CpuLedger::settle(std::span<const CountedCpu> counted, std::uint64_t longest_gap_ns) {
    std::unordered_map<std::uint32_t, std::uint64_t> sums;
    for (const CountedCpu& one : counted) {
        std::uint64_t& sum = sums[one.native_thread_id];
        sum = add_capped(sum, one.cpu_ns);
    }
    for (const auto& [native_id, counted_ns] : sums) {
        const auto known = accounts_.find(native_id);
        const bool is_known = known != accounts_.end();
        const Account account = is_known ? known->second : Account{};
        if (counted_ns < account.told_ns && account.thread_id == kNone) {
            overcounted_ns_ = add_capped(overcounted_ns_, account.told_ns - counted_ns);
        }
        if (native_id == 0 || counted_ns <= account.told_ns ||
            counted_ns - account.told_ns < kLeastNs) {
            continue;
        }
        std::uint32_t thread_id = account.thread_id;
        if (thread_id == kNone) {
            thread_id = static_cast<std::uint32_t>(native_ids_.size());
            thread(thread_id, 0, native_id, account.name);  // `known` is not valid any more
        }
        const std::uint64_t rest_ns = counted_ns - account.told_ns;
        if (!is_known || rest_ns > longest_gap_ns) {
            missed(thread_id, rest_ns);
        } else {
            cpu(thread_id, rest_ns);
        }
    }
}

}  // namespace echion::model
