// Fails a test that starts a thread in a program that is not declared with THREADS in CMake, and so
// is not run under ThreadSanitizer.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <pthread.h>

#include <atomic>

namespace {

std::atomic<bool> started{false};

class ThreadsCheck : public testing::EmptyTestEventListener {
    void OnTestEnd(const testing::TestInfo& /*test*/) override {
        EXPECT_FALSE(started.exchange(false))
            << "it starts a thread: its program needs THREADS in CMakeLists.txt";
    }
};

// Before main(): whose listeners it joins.
const bool listens = [] {
    testing::UnitTest::GetInstance()->listeners().Append(new ThreadsCheck);
    return true;
}();

}  // namespace

/// In the C library's place, for this program and its libraries.
extern "C" __attribute__((visibility("default"))) int pthread_create(
    pthread_t* thread, const pthread_attr_t* attributes, void* (*run)(void*), void* argument) {
    started = true;
    static const auto next =
        reinterpret_cast<decltype(&pthread_create)>(dlsym(RTLD_NEXT, "pthread_create"));
    return next(thread, attributes, run, argument);
}
