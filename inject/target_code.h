#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "memory/read_budget.h"
#include "memory/reader.h"
#include "platform/elf_image.h"

namespace echion::inject {

/// What code in a module means for a thread that is found there.
enum class ModuleRole : std::uint8_t {
    kProgram,    ///< The program's own code: a thread interrupted in it may be borrowed.
    kLibc,       ///< The C library, or a part of it (libpthread, libdl).
    kLoader,     ///< The dynamic loader.
    kAllocator,  ///< A replacement of malloc().
    kVdso,
};

/// An exported function during which a thread holds locks of the C library.
struct CriticalFunction {
    ElfRange range;
    const char* name;
};

struct TargetModule {
    ElfImage image;
    ModuleRole role = ModuleRole::kProgram;
    std::string path;
    std::uint64_t inode = 0;
    std::vector<CriticalFunction> critical;

    /// The critical function around an address, or null.
    [[nodiscard]] const CriticalFunction* find_critical(Address address) const;
};

/// The code that a process has mapped, and the places in it that attaching uses. Read once, before
/// any thread is stopped; a library loaded after that counts as program code.
class TargetCode {
  public:
    /// kInvalid, with a text that says what is missing, when the process cannot be attached to;
    /// kBoundExceeded when there is more to read than kTargetCodeLimits.
    static Result<TargetCode> read(MemoryReader& reader, pid_t pid);

    /// The module that an address lies in, or null: memory without a file (code made at run time).
    [[nodiscard]] const TargetModule* find_module(Address address) const;
    /// A function of the C library by its exported name; kInvalid when it has none of that name.
    Result<Address> find_libc_function(MemoryReader& reader, std::string_view name) const;
    [[nodiscard]] const std::vector<TargetModule>& modules() const { return modules_; }

    /// Instructions of the C library: a system call followed by a return.
    [[nodiscard]] Address system_call_and_return() const { return system_call_and_return_; }
    /// Instructions of the C library that call sigreturn; also what the kernel places as the return
    /// address of every signal handler.
    [[nodiscard]] Address sigreturn() const { return sigreturn_; }

  private:
    static Result<TargetCode> read_within(MemoryReader& reader, ReadBudget& budget, pid_t pid);
    Status find_instructions(MemoryReader& reader);

    std::vector<TargetModule> modules_;  // by address
    Address system_call_and_return_;
    Address sigreturn_;
};

}  // namespace echion::inject
