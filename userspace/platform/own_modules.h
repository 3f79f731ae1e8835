#pragma once

#include <array>
#include <cstddef>

#include "memory/address.h"

/// What the dynamic loader has loaded into this process. These ask the loader, and take its lock
/// for as long as they look.
namespace echion {

/// A range of this process's static data.
struct DataSegment {
    Address begin;
    std::size_t size_bytes;
};

/// Data that is there as long as the process lives.
struct StaticData {
    /// Writable segments of the program and of the objects that it is linked with. (What was opened
    /// by dlopen(3), and what only such an object is linked with, may be closed.)
    std::array<DataSegment, 256> segments{};
    std::size_t segment_count = 0;
    std::size_t tls_bytes = 0;  ///< thread-local data of all objects, in each thread's stack

    /// The static data from `address` to the end of its segment; 0 when it is in none.
    [[nodiscard]] std::size_t bytes_from(Address address) const;
};

/// Allocates nothing.
void find_static_data(StaticData& into);

/// Whether an object that is loaded has this address. Makes no system call, opens nothing,
/// allocates nothing and leaves errno and what dlerror(3) would say as they are.
bool is_loaded(Address address);

/// The symbol of that name that the object which `code` lies in exports; null if there is none.
/// `code` has to be an address that the calling thread will return to, so that its object stays
/// loaded. Otherwise as is_loaded().
Address find_exported_beside(const void* code, const char* name);

/// Whether the loader loaded the object that `code` lies in before the program, because the
/// environment says so (`kPreloadVariable`).
bool is_preloaded(const void* code);

/// The variable of the environment in which the loader finds libraries to preload.
extern const char* const kPreloadVariable;

}  // namespace echion
