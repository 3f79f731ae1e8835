#include "inject/seccomp_filter.h"

#include <linux/seccomp.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <optional>

namespace echion::inject {
namespace {

constexpr std::uint32_t kDataBytes = sizeof(seccomp_data);
// States kept apart at one instruction; more are made one of which less is known.
constexpr std::size_t kMaxStates = 32;
// What keeping a state takes, compared with executing one instruction; comparing it comes on top.
constexpr std::size_t kStepsOfABranch = 16;
constexpr std::uint32_t kShiftMask = 31;  // as the kernel's translation of classic BPF shifts

/// What a filter's memory holds at some instruction.
struct State {
    FilterWord a{0, true};  // both registers are zero at the start
    FilterWord x{0, true};
    std::array<FilterWord, BPF_MEMWORDS> memory{};

    bool operator==(const State&) const = default;
};

constexpr FilterWord known(std::uint32_t value) { return {value, true}; }

FilterWord join(FilterWord one, FilterWord other) { return one == other ? one : FilterWord{}; }

void join(State& into, const State& other) {
    into.a = join(into.a, other.a);
    into.x = join(into.x, other.x);
    for (std::size_t i = 0; i < into.memory.size(); ++i) {
        into.memory[i] = join(into.memory[i], other.memory[i]);
    }
}

/// One word of struct seccomp_data: nr, arch, instruction_pointer (64 bits), args (64 bits each).
FilterWord load_data(const FilteredCall& call, std::uint32_t offset) {
    static_assert(offsetof(seccomp_data, args) == 16);
    switch (offset) {
        case offsetof(seccomp_data, nr):
            return known(call.number);
        case offsetof(seccomp_data, arch):
            return known(call.architecture);
        case offsetof(seccomp_data, instruction_pointer):
        case offsetof(seccomp_data, instruction_pointer) + 4:
            return {};
        default:
            break;
    }
    const std::uint32_t place = (offset - 16) / 4;
    const CallArgument& argument = call.arguments[place / 2];
    const bool is_first = place % 2 == 0;
    return is_first == (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__) ? argument.low : argument.high;
}

/// Follows every path that one program can take on one call.
class Run {
  public:
    Run(const SeccompFilter& program, const FilteredCall& call, std::size_t& steps)
        : program_(program), call_(call), steps_(steps) {}

    Result<FilterOutcome> run() {
        if (program_.empty() || program_.size() > kMaxFilterInstructions) {
            return fail(ErrorKind::kInvalid, "a filter of an impossible length");
        }
        add(0, State());
        // Jumps go forward only: whatever leads to the first place in the list has been followed.
        while (!pending_.empty()) {
            auto states = pending_.extract(pending_.begin());
            for (const State& state : states.mapped()) {
                if (auto status = follow(states.key(), state); !status) {
                    return tl::unexpected(status.error());
                }
            }
        }
        if (!outcome_) {
            return fail(ErrorKind::kInvalid, "a filter without a result");
        }
        return *outcome_;
    }

  private:
    void add(std::size_t place, const State& state) {
        std::vector<State>& states = pending_[place];
        steps_ -= std::min(steps_, kStepsOfABranch + states.size());
        if (std::find(states.begin(), states.end(), state) != states.end()) {
            return;
        }
        if (states.size() < kMaxStates) {
            states.push_back(state);
            return;
        }
        join(states.front(), state);
        for (const State& other : states) {
            join(states.front(), other);
        }
        states.resize(1);
    }

    void finish(FilterWord value) {
        // What is not known may be the worst there is, or nothing.
        const std::uint32_t worst = value.is_known ? value.value : SECCOMP_RET_KILL_PROCESS;
        const std::uint32_t best = value.is_known ? value.value : SECCOMP_RET_ALLOW;
        if (!outcome_) {
            outcome_ = FilterOutcome{worst, best};
            return;
        }
        if (is_more_restrictive(worst, outcome_->worst)) {
            outcome_->worst = worst;
        }
        if (is_more_restrictive(outcome_->best, best)) {
            outcome_->best = best;
        }
    }

    /// Executes from one instruction on, to the end or to a jump of which the way is not known.
    Status follow(std::size_t place, State state) {
        for (; place < program_.size(); ++place) {
            if (steps_ == 0) {
                return fail(ErrorKind::kBoundExceeded, "a filter takes too many steps");
            }
            --steps_;
            const sock_filter& one = program_[place];
            switch (BPF_CLASS(one.code)) {
                case BPF_RET:
                    if (BPF_RVAL(one.code) != BPF_K && BPF_RVAL(one.code) != BPF_A) {
                        return broken();
                    }
                    finish(BPF_RVAL(one.code) == BPF_K ? known(one.k) : state.a);
                    return {};
                case BPF_JMP: {
                    const auto next = jump(place, state);
                    if (!next) {
                        return tl::unexpected(next.error());
                    }
                    if (!next->has_value()) {
                        return {};  // both ways are in the list
                    }
                    place = **next - 1;
                    break;
                }
                default:
                    if (auto status = execute(one, state); !status || has_ended_) {
                        has_ended_ = false;
                        return status;
                    }
            }
        }
        return broken();
    }

    static tl::unexpected<Error> broken() {
        return fail(ErrorKind::kInvalid, "a filter that the kernel would not have taken");
    }

    /// The place that a jump leads to; nothing when both ways are possible, and have been added.
    Result<std::optional<std::size_t>> jump(std::size_t place, const State& state) {
        const sock_filter& one = program_[place];
        const std::size_t left = program_.size() - place - 1;
        if (one.code == (BPF_JMP | BPF_JA)) {
            if (one.k >= left) {
                return broken();
            }
            return std::optional(place + 1 + one.k);
        }
        if (one.jt >= left || one.jf >= left) {
            return broken();
        }
        const FilterWord operand = BPF_SRC(one.code) == BPF_X ? state.x : known(one.k);
        const bool is_decided = state.a.is_known && operand.is_known;
        bool is_true = false;
        switch (BPF_OP(one.code)) {
            case BPF_JEQ:
                is_true = state.a.value == operand.value;
                break;
            case BPF_JGT:
                is_true = state.a.value > operand.value;
                break;
            case BPF_JGE:
                is_true = state.a.value >= operand.value;
                break;
            case BPF_JSET:
                is_true = (state.a.value & operand.value) != 0;
                break;
            default:
                return broken();
        }
        const std::size_t if_true = place + 1 + one.jt;
        const std::size_t if_false = place + 1 + one.jf;
        if (is_decided || if_true == if_false) {
            return std::optional(is_true ? if_true : if_false);
        }
        State equal = state;
        if (BPF_OP(one.code) == BPF_JEQ && operand.is_known) {
            equal.a = operand;
        }
        add(if_true, equal);
        add(if_false, state);
        return std::optional<std::size_t>();
    }

    Status execute(const sock_filter& one, State& state) {
        switch (one.code) {
            case BPF_LD | BPF_W | BPF_ABS:
                if (one.k % 4 != 0 || one.k >= kDataBytes) {
                    return broken();
                }
                state.a = load_data(call_, one.k);
                return {};
            case BPF_LD | BPF_W | BPF_LEN:
                state.a = known(kDataBytes);
                return {};
            case BPF_LDX | BPF_W | BPF_LEN:
                state.x = known(kDataBytes);
                return {};
            case BPF_LD | BPF_IMM:
                state.a = known(one.k);
                return {};
            case BPF_LDX | BPF_IMM:
                state.x = known(one.k);
                return {};
            case BPF_MISC | BPF_TAX:
                state.x = state.a;
                return {};
            case BPF_MISC | BPF_TXA:
                state.a = state.x;
                return {};
            case BPF_LD | BPF_MEM:
            case BPF_LDX | BPF_MEM:
            case BPF_ST:
            case BPF_STX:
                return access_memory(one, state);
            default:
                return BPF_CLASS(one.code) == BPF_ALU ? calculate(one, state) : Status(broken());
        }
    }

    static Status access_memory(const sock_filter& one, State& state) {
        if (one.k >= state.memory.size()) {
            return broken();
        }
        FilterWord& slot = state.memory[one.k];
        switch (one.code) {
            case BPF_LD | BPF_MEM:
                state.a = slot;
                break;
            case BPF_LDX | BPF_MEM:
                state.x = slot;
                break;
            case BPF_ST:
                slot = state.a;
                break;
            default:
                slot = state.x;
        }
        return {};
    }

    Status calculate(const sock_filter& one, State& state) {
        if (BPF_OP(one.code) == BPF_NEG) {
            state.a.value = state.a.is_known ? 0U - state.a.value : 0U;
            return {};
        }
        const FilterWord operand = BPF_SRC(one.code) == BPF_X ? state.x : known(one.k);
        const std::uint32_t a = state.a.value;
        const std::uint32_t b = operand.value;
        std::uint32_t result = 0;
        switch (BPF_OP(one.code)) {
            case BPF_ADD:
                result = a + b;
                break;
            case BPF_SUB:
                result = a - b;
                break;
            case BPF_MUL:
                result = a * b;
                break;
            case BPF_DIV:
                if (operand.is_known && b == 0) {
                    finish(known(0));  // the kernel ends the program with 0 (SECCOMP_RET_KILL)
                    has_ended_ = true;
                    return {};
                }
                if (!operand.is_known) {
                    finish(known(0));
                }
                result = operand.is_known ? a / b : 0;
                break;
            case BPF_OR:
                result = a | b;
                break;
            case BPF_AND:
                result = a & b;
                break;
            case BPF_XOR:
                result = a ^ b;
                break;
            case BPF_LSH:
                result = a << (b & kShiftMask);
                break;
            case BPF_RSH:
                result = a >> (b & kShiftMask);
                break;
            default:
                return broken();
        }
        const bool is_zero = BPF_OP(one.code) == BPF_AND &&
                             ((state.a.is_known && a == 0) || (operand.is_known && b == 0));
        state.a = (state.a.is_known && operand.is_known) || is_zero ? known(is_zero ? 0 : result)
                                                                    : FilterWord{};
        return {};
    }

    const SeccompFilter& program_;
    const FilteredCall& call_;
    std::size_t& steps_;
    std::map<std::size_t, std::vector<State>> pending_;  // by instruction
    std::optional<FilterOutcome> outcome_;
    bool has_ended_ = false;
};

}  // namespace

bool is_more_restrictive(std::uint32_t value, std::uint32_t than) {
    const auto order = [](std::uint32_t one) {
        return static_cast<std::int32_t>(one & SECCOMP_RET_ACTION_FULL);
    };
    if (order(value) != order(than)) {
        return order(value) < order(than);
    }
    const auto is_absent = [](std::uint32_t one) { return (one & SECCOMP_RET_DATA) == ENOSYS; };
    return is_absent(than) && !is_absent(value);
}

Result<FilterOutcome> evaluate_filters(std::span<const SeccompFilter> filters,
                                       const FilteredCall& call, std::size_t& steps) {
    FilterOutcome all{SECCOMP_RET_ALLOW, SECCOMP_RET_ALLOW};
    for (const SeccompFilter& filter : filters) {
        const auto outcome = Run(filter, call, steps).run();
        if (!outcome) {
            return outcome;
        }
        if (is_more_restrictive(outcome->worst, all.worst)) {
            all.worst = outcome->worst;
        }
        if (is_more_restrictive(outcome->best, all.best)) {
            all.best = outcome->best;
        }
    }
    return all;
}

}  // namespace echion::inject
