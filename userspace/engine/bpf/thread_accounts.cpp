#include "engine/bpf/thread_accounts.h"

#include <algorithm>

#include "base/clock.h"

namespace echion::engine {
namespace {

std::uint64_t since(std::uint64_t from, std::uint64_t to) { return to - std::min(from, to); }

}  // namespace

bool ThreadAccounts::Account::leaves_out(std::uint32_t slot, const CpuState& state) const {
    const auto before = left_out_before.find(state.tid);
    return left_out.count({slot, state.generation}) != 0 ||
           (before != left_out_before.end() && state.started_ns < before->second);
}

void ThreadAccounts::leave_out_so_far(std::uint32_t target, std::uint32_t tid) {
    if (const auto known = targets_.find(target); known != targets_.end() && tid != 0) {
        known->second.left_out_before[tid] = static_cast<std::uint64_t>(monotonic_ns());
        known->second.ended.erase(tid);
    }
}

void ThreadAccounts::note_ended(const CpuStateMap& states) {
    stamps_.resize(states.capacity());
    generations_.resize(states.capacity());
    states.for_each_changed(stamps_, [&](std::uint32_t slot, CpuStateMap::Stamp stamp) {
        if (CpuStateMap::is_running(stamp)) {
            return;
        }
        const auto state = states.read(slot);
        if (!state) {
            stamps_[slot] = stamp + 2;  // being written: next time
            return;
        }
        if (!state->ended || state->generation == generations_[slot]) {
            return;
        }
        missed_ += state->generation - generations_[slot] - 1;
        generations_[slot] = state->generation;
        const auto target = targets_.find(state->target);
        if (target == targets_.end()) {
            return;
        }
        Account& account = target->second;
        if (account.leaves_out(slot, *state)) {
            return;
        }
        const std::uint64_t first_ns =
            state->tid == account.main_tid ? account.main_first_cpu_ns : state->first_cpu_ns();
        const ThreadCpu used = take_off(account, {slot, state->generation},
                                        {state->tid, since(first_ns, state->on_cpu_ns),
                                         state->runnable_ns_at(state->ended_ns), 0});
        ThreadCpu& ended = account.ended[state->tid];
        ended.target_tid = state->tid;
        ended.cpu_ns += used.cpu_ns;
        ended.runnable_ns += used.runnable_ns;
        ended.ended_ns = std::max(ended.ended_ns, state->ended_ns);
    });
}

void ThreadAccounts::begin(std::uint32_t target, std::uint32_t main_tid,
                           const CpuStateMap& states) {
    note_ended(states);  // what ended before is not this target's
    Account account;
    account.begun_ns = static_cast<std::uint64_t>(monotonic_ns());
    account.main_tid = main_tid;
    if (const auto slot = states.find_slot(main_tid, main_tid, target)) {
        const auto state = states.read(*slot);
        account.main_first_cpu_ns = state ? state->first_cpu_ns() : 0;
    }
    begun_.resize(states.capacity());
    for (std::uint32_t slot = 0; slot < states.used(); ++slot) {
        const auto state = states.read(slot);
        if (!state || state->ended || state->target != target) {
            continue;
        }
        Begun& begun = begun_[slot];
        if (begun.at_ns != 0 && begun.generation == state->generation &&
            state->program_ns < begun.at_ns) {
            account.used_before[{slot, state->generation}] = {
                state->tid, since(state->first_cpu_ns(), state->cpu_ns_at(account.begun_ns)),
                state->runnable_ns_at(account.begun_ns)};
        }
        begun = {state->generation, account.begun_ns};
    }
    targets_[target] = std::move(account);
}

ThreadCpu ThreadAccounts::take_off(const Account& account, Holder holder, ThreadCpu used) {
    if (const auto before = account.used_before.find(holder); before != account.used_before.end()) {
        used.cpu_ns = since(before->second.cpu_ns, used.cpu_ns);
        used.runnable_ns = since(before->second.runnable_ns, used.runnable_ns);
    }
    return used;
}

void ThreadAccounts::leave_out(std::uint32_t target, Holder thread) {
    if (const auto known = targets_.find(target); known != targets_.end()) {
        known->second.left_out.insert(thread);
    }
}

std::vector<ThreadCpu> ThreadAccounts::count(std::uint32_t target, const CpuStateMap& states,
                                             bool with_living) {
    std::vector<ThreadCpu> result;
    const auto known = targets_.find(target);
    if (known == targets_.end()) {
        return result;
    }
    note_ended(states);
    const Account& account = known->second;
    for (const auto& [tid, ended] : account.ended) {
        result.push_back(ended);
    }
    if (!with_living) {
        return result;
    }
    const auto now_ns = static_cast<std::uint64_t>(monotonic_ns());
    std::uint64_t program_ns = ~std::uint64_t{0};  // when it ran another one
    for (const bool is_main : {true, false}) {
        for (std::uint32_t slot = 0; slot < states.used(); ++slot) {
            const auto state = states.read(slot);
            if (!state || state->ended || state->target != target ||
                (state->tid == account.main_tid) != is_main || account.leaves_out(slot, *state)) {
                continue;
            }
            std::uint64_t first_ns = state->first_cpu_ns();
            std::uint64_t last_ns = state->cpu_ns_at(now_ns);
            if (is_main) {
                first_ns = account.main_first_cpu_ns;
                if (state->program_ns > account.begun_ns) {
                    program_ns = state->program_ns;
                    last_ns = state->program_cpu_ns;
                }
            }
            if (is_main || state->started_ns < program_ns) {
                result.push_back(take_off(
                    account, {slot, state->generation},
                    {state->tid, since(first_ns, last_ns), state->runnable_ns_at(now_ns), 0}));
            }
        }
    }
    return result;
}

}  // namespace echion::engine
