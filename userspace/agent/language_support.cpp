// What the compiler expects of a C++ run-time library, without one: the agent brings no libstdc++
// into the target, and cannot allocate. A call of any of these is a bug in the agent.

#include <cstddef>
#include <cstdlib>

// A virtual destructor refers to the deleting variant of itself, which nobody calls: no object of
// the agent is made by new.
void operator delete(void*) noexcept { std::abort(); }
void operator delete(void*, std::size_t) noexcept { std::abort(); }

// What the standard library's headers call where they would throw: std::string_view::substr().
namespace std {
[[noreturn]] void __throw_out_of_range_fmt(const char*, ...) { std::abort(); }
}  // namespace std

extern "C" void __cxa_pure_virtual() { std::abort(); }
