#include "platform/linux/vdso_clock.h"

#include <sys/auxv.h>

#include <atomic>
#include <cstring>
#include <string_view>

#include "memory/reader.h"
#include "platform/elf_image.h"
#include "platform/linux/raw_call_x86_64.h"

namespace echion {
namespace {

using ClockCall = int (*)(clockid_t, timespec*);

/// Reads the vDSO in place: it is the kernel's, mapped as long as the process lives, and as true as
/// its pages are (arch/x86/entry/vdso/vma.c). A restored process (CRIU) has the old one in its
/// place, whose functions lead to the new one.
class OwnMemory final : public MemoryReader {
  public:
    std::size_t read(std::span<const ReadRequest> requests) noexcept override {
        for (const ReadRequest& request : requests) {
            std::memcpy(request.into, reinterpret_cast<const void*>(request.from.value()),
                        request.size_bytes);
        }
        return requests.size();
    }
};

template <long kNumber>
int by_system_call(clockid_t clock, timespec* into) {
    return static_cast<int>(kernel_call(kNumber, clock, into));
}

/// A function of the vDSO's, or what is to be called in its place.
ClockCall find_function(std::string_view name, ClockCall by_system_call) {
    // None under some emulators, and where it is turned off (vdso=0).
    const unsigned long base = getauxval(AT_SYSINFO_EHDR);
    if (base == 0) {
        return by_system_call;
    }
    OwnMemory memory;
    const auto image = ElfImage::read(memory, Address(base));
    if (!image) {
        return by_system_call;
    }
    const auto symbol = image->find_symbol(memory, name);
    if (!symbol || !symbol->is_function || symbol->is_indirect ||
        !image->text().contains(symbol->address)) {
        return by_system_call;
    }
    return reinterpret_cast<ClockCall>(symbol->address.value());
}

// For the process: what every caller finds. The same whoever finds it first.
std::atomic<ClockCall> g_clock_gettime{nullptr};
std::atomic<ClockCall> g_clock_getres{nullptr};

}  // namespace

int read_kernel_clock(clockid_t clock, timespec* into) {
    ClockCall function = g_clock_gettime.load(std::memory_order_relaxed);
    if (function == nullptr) {
        function = find_function("__vdso_clock_gettime", by_system_call<SYS_clock_gettime>);
        g_clock_gettime.store(function, std::memory_order_relaxed);
    }
    return function(clock, into);
}

int read_kernel_clock_resolution(clockid_t clock, timespec* into) {
    ClockCall function = g_clock_getres.load(std::memory_order_relaxed);
    if (function == nullptr) {
        function = find_function("__vdso_clock_getres", by_system_call<SYS_clock_getres>);
        g_clock_getres.store(function, std::memory_order_relaxed);
    }
    return function(clock, into);
}

}  // namespace echion
