#include "inject/safe_point.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

namespace echion::inject {
namespace {

constexpr std::size_t kPageBytes = 4096;
// How far up the stack to look for the mark of a signal handler's frame: handlers are shallow.
constexpr std::size_t kSignalSearchPages = 16;
constexpr std::size_t kMaxFrames = 64;
constexpr std::size_t kMaxFramesWithSignal = 256;

// glibc's arenas beside the first lie at the start of heaps aligned to their greatest size
// (malloc/arena.c: HEAP_MAX_SIZE), and begin with their lock.
constexpr std::uintptr_t kHeapAlignment =
    sizeof(void*) == 8 ? std::uintptr_t{64} << 20 : std::uintptr_t{1} << 20;
constexpr std::uintptr_t kHeapHeadBytes = 512;

// struct rseq and struct rseq_cs (include/uapi/linux/rseq.h).
constexpr std::size_t kRseqCsOffset = 8;
struct RestartableSequence {
    std::uint32_t version;
    std::uint32_t flags;
    std::uint64_t start;
    std::uint64_t size_bytes;
    std::uint64_t abort;
};

std::string file_name(const std::string& path) {
    const std::size_t slash = path.rfind('/');
    return slash == std::string::npos ? path : path.substr(slash + 1);
}

}  // namespace

std::string SafePoint::describe(Address instruction) const {
    const TargetModule* module = code_.find_module(instruction);
    if (module == nullptr) {
        return "in code that lies in no file";
    }
    const std::string file = file_name(module->path);
    if (const CriticalFunction* function = module->find_critical(instruction)) {
        return "in " + std::string(function->name) + "() (" + file + ")";
    }
    switch (module->role) {
        case ModuleRole::kLibc:
            return "in the C library (" + file + ")";
        case ModuleRole::kLoader:
            return "in the dynamic loader (" + file + ")";
        case ModuleRole::kAllocator:
            return "in the allocator (" + file + ")";
        case ModuleRole::kVdso:
        case ModuleRole::kProgram:
            return "in " + file;
    }
    return "somewhere";
}

bool SafePoint::is_in_restartable_sequence(Address instruction, Address rseq_area) {
    if (!rseq_area) {
        return false;
    }
    const auto descriptor = reader_.read_value<std::uint64_t>(rseq_area + kRseqCsOffset);
    if (!descriptor || *descriptor == 0) {
        return false;
    }
    const auto sequence =
        reader_.read_value<RestartableSequence>(Address(static_cast<std::uintptr_t>(*descriptor)));
    return !sequence || instruction.value() - sequence->start < sequence->size_bytes;
}

bool SafePoint::is_lock_of_libc(Address futex) const {
    const TargetModule* module = code_.find_module(futex);
    if (module != nullptr) {
        return module->role == ModuleRole::kLibc || module->role == ModuleRole::kLoader ||
               module->role == ModuleRole::kAllocator;
    }
    return (futex.value() & (kHeapAlignment - 1)) < kHeapHeadBytes;
}

bool SafePoint::is_program_code(Address instruction) {
    if (const TargetModule* module = code_.find_module(instruction)) {
        return module->role == ModuleRole::kProgram;
    }
    // Of a library that was loaded since the first look; anything else may be anybody's.
    const auto range = map_.find(instruction);
    return range && range->is_file && range->is_executable;
}

/// Nothing if no signal handler's frame can be on the stack.
std::optional<std::vector<arch::AlternateStack>> SafePoint::find_signal_frames(
    Address stack_pointer) {
    std::vector<std::byte> copy(kSignalSearchPages * kPageBytes);
    std::array<ReadRequest, kSignalSearchPages> requests;
    // From the stack pointer to its page's end, then whole pages: the stack may end at any page.
    const Address start(stack_pointer.value() & ~std::uintptr_t{sizeof(void*) - 1});
    std::size_t filled = 0;
    for (ReadRequest& request : requests) {
        const Address from = start + filled;
        const std::size_t size =
            std::min(kPageBytes - (from.value() & (kPageBytes - 1)), copy.size() - filled);
        request = {from, copy.data() + filled, size};
        filled += size;
    }
    const std::size_t count = reader_.read(requests);
    const std::size_t size_bytes =
        count == 0 ? 0 : requests[count - 1].from + requests[count - 1].size_bytes - start;
    const std::uintptr_t mark = code_.sigreturn().value();
    std::optional<std::vector<arch::AlternateStack>> found;
    for (std::size_t at = 0; at + sizeof(mark) <= size_bytes; at += sizeof(mark)) {
        if (std::memcmp(copy.data() + at, &mark, sizeof(mark)) == 0) {
            found = found ? std::move(found) : std::vector<arch::AlternateStack>();
            const auto frame = std::span(copy).first(size_bytes).subspan(at + sizeof(mark));
            if (const auto stack = arch::find_alternate_stack(frame)) {
                found->push_back(*stack);
            }
        }
    }
    return found;
}

SafePointVerdict SafePoint::judge(const arch::Registers& registers, Address rseq_area) {
    const Address instruction = arch::instruction_pointer(registers);
    if (is_in_restartable_sequence(instruction, rseq_area)) {
        return {false, "in a restartable sequence", {}};
    }
    const arch::SystemCallState call = arch::system_call_state(registers);
    const bool is_waiting = call.is_interrupted() && arch::is_waiting_call(call.number);
    if (call.is_in_call() && !is_waiting && call.is_interrupted()) {
        return {false, "in system call " + std::to_string(call.number), {}};
    }
    if (is_waiting && arch::is_futex(call.number) && is_lock_of_libc(Address(call.arguments[0]))) {
        return {false, "waiting for a lock of the C library", {}};
    }
    const TargetModule* module = code_.find_module(instruction);
    const bool is_program =
        is_program_code(instruction) && (module == nullptr || module->critical.empty());
    auto alternate_stacks = find_signal_frames(arch::stack_pointer(registers));
    const bool look_for_signal = alternate_stacks.has_value();
    if (is_program && !look_for_signal) {
        return {true,
                is_waiting ? "waiting in system call " + std::to_string(call.number)
                           : describe(instruction),
                {}};
    }
    SafePointVerdict verdict = judge_frames(registers, is_waiting, look_for_signal);
    verdict.alternate_stacks = std::move(alternate_stacks).value_or(verdict.alternate_stacks);
    if (verdict.is_safe && is_waiting) {
        verdict.doing = "waiting in system call " + std::to_string(call.number);
    }
    return verdict;
}

SafePointVerdict SafePoint::judge_frames(const arch::Registers& registers, bool is_waiting,
                                         bool look_for_signal) {
    SafePointVerdict verdict{false, "in code whose callers cannot be told", {}};
    // The innermost frame, and one that a signal interrupted, stand where they stopped; the others
    // stand behind a call, whose function is the one of the byte before.
    bool is_interrupted = true;
    bool is_innermost = true;
    bool has_program = false;
    const std::size_t max_frames = look_for_signal ? kMaxFramesWithSignal : kMaxFrames;
    const bool followed = unwinder_.walk(registers, max_frames, [&](const NativeFrame& frame) {
        const Address place = is_interrupted ? frame.instruction : frame.instruction - 1;
        const TargetModule* module = code_.find_module(place);
        if (module == nullptr && !is_program_code(place)) {
            verdict = {false, describe(place), {}};
            has_program = false;
            return false;
        }
        const ModuleRole role = module == nullptr ? ModuleRole::kProgram : module->role;
        // Interrupted in the middle of the C library it may be anywhere, and nameless helpers
        // of the allocator look like all the rest. Blocked in a call of ours, it is not.
        const bool is_mid_libc = is_interrupted && role == ModuleRole::kLibc &&
                                 !(is_innermost && is_waiting) && !frame.is_signal;
        if (role == ModuleRole::kLoader || role == ModuleRole::kAllocator || is_mid_libc ||
            (module != nullptr && !frame.is_signal && module->find_critical(place) != nullptr)) {
            verdict = {false, describe(place), {}};
            has_program = false;
            return false;
        }
        has_program = has_program || role == ModuleRole::kProgram;
        is_interrupted = frame.is_signal;
        is_innermost = false;
        if (has_program && !look_for_signal) {
            verdict = {true, describe(place), {}};
            return false;
        }
        return true;
    });
    if (look_for_signal && followed && has_program) {
        return {true, "in a signal handler", {}};
    }
    return verdict;
}

bool SafePoint::may_give_up_call(const arch::Registers& registers, const ElfRange& caller) {
    const arch::SystemCallState call = arch::system_call_state(registers);
    if (!call.is_interrupted() || !arch::is_futex(call.number)) {
        return false;
    }
    bool is_in_caller = false;
    bool is_in_create = true;
    (void)unwinder_.walk(registers, kMaxFrames, [&](const NativeFrame& frame) {
        is_in_caller = caller.contains(frame.instruction);
        if (is_in_caller) {
            return false;
        }
        // Its other locks are the allocator's and, called through the loader, that of thread-local
        // storage, which is taken for a thread that is in a list already.
        const TargetModule* module = code_.find_module(frame.instruction - 1);
        is_in_create = module != nullptr && !frame.is_signal && module->role == ModuleRole::kLibc;
        if (is_in_create) {
            const CriticalFunction* function = module->find_critical(frame.instruction - 1);
            is_in_create =
                function == nullptr || std::string_view(function->name) == "pthread_create";
        }
        return is_in_create;
    });
    return is_in_caller && is_in_create;
}

}  // namespace echion::inject
