#include "inject/target_code.h"

#include <algorithm>
#include <array>

#include "base/clock.h"
#include "inject/arch.h"
#include "platform/process_modules.h"

namespace echion::inject {
namespace {

constexpr std::size_t kMaxModules = 16384;
// A target may have mapped objects whose symbol tables take for ever; real ones take milliseconds.
constexpr std::int64_t kMaxReadNs = 10 * kNanosPerSecond;
constexpr std::size_t kMaxTextBytes = std::size_t{16} << 20;

/// Functions that hold locks of the C library while they run, or leave it in a state in which a
/// thread must not be made: the allocator's, and those that make, end or list threads, processes
/// and libraries. Functions that only wait (pthread_join, sem_wait) are not among them.
constexpr std::array kCriticalFunctions = {
    "malloc",
    "calloc",
    "realloc",
    "reallocarray",
    "free",
    "cfree",
    "memalign",
    "aligned_alloc",
    "posix_memalign",
    "valloc",
    "pvalloc",
    "malloc_trim",
    "malloc_stats",
    "malloc_info",
    "mallinfo",
    "mallinfo2",
    "mallopt",
    "malloc_usable_size",
    "pthread_create",
    "pthread_exit",
    "pthread_getattr_np",
    "pthread_attr_init",
    "pthread_setattr_default_np",
    "fork",
    "_Fork",
    "vfork",
    "clone",
    "posix_spawn",
    "posix_spawnp",
    "popen",
    "system",
    "exit",
    "quick_exit",
    "abort",
    "dlopen",
    "dlmopen",
    "dlclose",
    "dlsym",
    "dlvsym",
    "dladdr",
    "dladdr1",
    "dlinfo",
    "dl_iterate_phdr",
    "setuid",
    "setgid",
    "seteuid",
    "setegid",
    "setreuid",
    "setregid",
    "setresuid",
    "setresgid",
    "setgroups",
    "__libc_freeres",
};

bool defines(MemoryReader& reader, const ElfImage& image, std::string_view name) {
    const auto symbol = image.find_symbol(reader, name);
    return symbol && symbol->is_function;
}

ModuleRole find_role(MemoryReader& reader, const ElfImage& image, std::string_view path) {
    if (path == "[vdso]") {
        return ModuleRole::kVdso;
    }
    const bool is_glibc = defines(reader, image, "gnu_get_libc_version");
    const bool is_musl = !image.has_interpreter() && defines(reader, image, "__libc_start_main");
    if (is_glibc || is_musl) {
        return ModuleRole::kLibc;
    }
    if (defines(reader, image, "_dl_allocate_tls") || defines(reader, image, "__tls_get_addr")) {
        return ModuleRole::kLoader;
    }
    if (defines(reader, image, "malloc") && !image.has_interpreter() &&
        !image.find_symbol(reader, "_PyRuntime")) {
        return ModuleRole::kAllocator;
    }
    // Before glibc 2.34 these were libraries of their own. (Others define pthread_create too, to
    // watch it; they export no __pthread_ names.)
    if (defines(reader, image, "__pthread_mutex_lock") ||
        (defines(reader, image, "dlopen") && defines(reader, image, "dlvsym"))) {
        return ModuleRole::kLibc;
    }
    return ModuleRole::kProgram;
}

}  // namespace

const CriticalFunction* TargetModule::find_critical(Address address) const {
    const auto found = std::find_if(
        critical.begin(), critical.end(),
        [address](const CriticalFunction& function) { return function.range.contains(address); });
    return found == critical.end() ? nullptr : &*found;
}

Result<TargetCode> TargetCode::read(MemoryReader& reader, pid_t pid) {
    TargetCode code;
    const std::int64_t deadline_ns = monotonic_ns() + kMaxReadNs;
    const Status walked = for_each_module(pid, [&](const MappedRange& range) {
        const auto image = ElfImage::read(reader, range.start);
        if (!image || image->text().size_bytes == 0) {
            return true;
        }
        TargetModule module{*image,
                            find_role(reader, *image, range.path),
                            std::string(range.path),
                            range.inode,
                            {}};
        // An executable may have an allocator of its own linked into it.
        const bool is_allocating_program =
            module.role == ModuleRole::kProgram && defines(reader, *image, "malloc");
        if (module.role == ModuleRole::kLibc || is_allocating_program) {
            for (const char* name : kCriticalFunctions) {
                const auto symbol = image->find_symbol(reader, name);
                if (symbol && symbol->is_function && symbol->size_bytes != 0) {
                    module.critical.push_back({{symbol->address, symbol->size_bytes}, name});
                }
            }
        }
        code.modules_.push_back(std::move(module));
        return code.modules_.size() < kMaxModules && monotonic_ns() < deadline_ns;
    });
    if (!walked) {
        return tl::unexpected(walked.error());
    }
    if (monotonic_ns() >= deadline_ns) {
        return fail(ErrorKind::kBoundExceeded, "its mapped libraries take too long to read");
    }
    std::sort(code.modules_.begin(), code.modules_.end(),
              [](const TargetModule& left, const TargetModule& right) {
                  return left.image.base() < right.image.base();
              });
    if (auto status = code.find_instructions(reader); !status) {
        return tl::unexpected(status.error());
    }
    return code;
}

const TargetModule* TargetCode::find_module(Address address) const {
    auto behind = std::upper_bound(
        modules_.begin(), modules_.end(), address,
        [](Address value, const TargetModule& module) { return value < module.image.base(); });
    if (behind == modules_.begin()) {
        return nullptr;
    }
    --behind;
    return behind->image.range().contains(address) ? &*behind : nullptr;
}

Result<Address> TargetCode::find_libc_function(MemoryReader& reader, std::string_view name) const {
    for (const TargetModule& module : modules_) {
        if (module.role != ModuleRole::kLibc) {
            continue;
        }
        const auto symbol = module.image.find_symbol(reader, name);
        if (symbol && symbol->is_function && !symbol->is_indirect &&
            module.image.text().contains(symbol->address)) {
            return symbol->address;
        }
    }
    return fail(ErrorKind::kInvalid, "the C library lacks a function");
}

Status TargetCode::find_instructions(MemoryReader& reader) {
    const auto function = find_libc_function(reader, "syscall");
    if (!function) {
        return fail(ErrorKind::kInvalid,
                    "no shared C library in the process (is it static, or has it only just started?)");
    }
    std::array<std::byte, 96> body;
    if (auto status = reader.read_bytes(*function, body.data(), body.size()); !status) {
        return status;
    }
    const auto call = arch::find_system_call_and_return(body);
    if (!call) {
        return fail(ErrorKind::kInvalid, "the process's C library is of an unknown kind");
    }
    system_call_and_return_ = *function + *call;

    for (const TargetModule& module : modules_) {
        const ElfRange text = module.image.text();
        if (module.role != ModuleRole::kLibc || text.size_bytes > kMaxTextBytes) {
            continue;
        }
        std::vector<std::byte> copy(text.size_bytes);
        if (!reader.read_bytes(text.start, copy.data(), copy.size())) {
            continue;
        }
        if (const auto offset = arch::find_sigreturn(copy)) {
            sigreturn_ = text.start + *offset;
            return {};
        }
    }
    return fail(ErrorKind::kInvalid, "the process's C library is of an unknown kind");
}

}  // namespace echion::inject
