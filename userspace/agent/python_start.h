#pragma once

#include "memory/address.h"

namespace echion::agent {

/// What is known of the starts of CPython in this process.
///
/// CPython makes the attributes of its condition variables when it is initialised: from 3.8 on by
/// pthread_condattr_setclock(3), first thing of all, once for each time that the library is loaded
/// (3.8-3.11) or initialised (3.12 and later). Hardly anybody else calls that function. The agent
/// stands in front of the C library's, as the loader looks names up in preloaded objects before the
/// C library, also for an object that was opened with RTLD_LOCAL. Not for one that was opened with
/// RTLD_DEEPBIND or by dlmopen(3): those are not noticed.

/// The CPython runtime (_PyRuntime) of the object that `code` lies in, if that exports one; else
/// null. `code` has to be an address that the calling thread will return to, so that its object
/// stays loaded. Makes no system call, opens nothing, allocates nothing and leaves errno and what
/// dlerror(3) would say as they are; takes the loader's lock for as long as it looks for the
/// object.
Address find_calling_python(const void* code);

/// Whether an object that is loaded has this address. Likewise.
bool is_loaded(Address address);

}  // namespace echion::agent
