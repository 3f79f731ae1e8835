#include "platform/own_modules.h"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <stdio.h>

#include <cerrno>
#include <memory>
#include <string>

namespace echion {
namespace {

int program_data = 1;

struct Close {
    void operator()(void* library) const { dlclose(library); }
};
using Library = std::unique_ptr<void, Close>;

Library open(const char* path) { return Library(dlopen(path, RTLD_NOW | RTLD_LOCAL)); }

Address find(const Library& library, const char* name) {
    return Address(reinterpret_cast<std::uintptr_t>(dlsym(library.get(), name)));
}

Address find_runtime(const void* code) { return find_exported_beside(code, "_PyRuntime"); }

const void* code_of(const Library& library) { return dlsym(library.get(), "library_function"); }

TEST(RuntimeBeside, IsThatOfAnObjectThatExportsARuntime) {
    const Library python = open(WITH_RUNTIME);
    const Library other = open(WITHOUT_RUNTIME);
    ASSERT_TRUE(python && other) << dlerror();
    EXPECT_EQ(find_runtime(code_of(python)), find(python, "_PyRuntime"));
    EXPECT_TRUE(find_runtime(code_of(other)).is_null());
}

TEST(RuntimeBeside, IsNotThatOfWhatIsNoObject) {
    const auto memory = std::make_unique<int>();
    EXPECT_TRUE(find_runtime(memory.get()).is_null());
    EXPECT_TRUE(find_runtime(nullptr).is_null());
    EXPECT_TRUE(find_runtime(reinterpret_cast<const void*>(&fopen)).is_null());
}

TEST(RuntimeBeside, LeavesErrorsAsTheyAre) {
    const Library python = open(WITH_RUNTIME);
    const Library other = open(WITHOUT_RUNTIME);
    const void* codes[] = {code_of(python), code_of(other), nullptr};
    ASSERT_EQ(dlopen("/nowhere/at/all", RTLD_NOW), nullptr);
    errno = EXDEV;
    for (const void* code : codes) {
        (void)find_runtime(code);
    }
    EXPECT_EQ(errno, EXDEV);
    const char* error = dlerror();
    ASSERT_NE(error, nullptr);
    EXPECT_NE(std::string(error).find("/nowhere/at/all"), std::string::npos);
}

TEST(LoadedObjects, KnowsWhatIsLoaded) {
    Library python = open(WITH_RUNTIME);
    const Address runtime = find(python, "_PyRuntime");
    EXPECT_TRUE(is_loaded(runtime));
    python.reset();
    EXPECT_FALSE(is_loaded(runtime));
}

TEST(StaticData, IsThatOfWhatStaysMappedOnly) {
    const Library library = open(WITHOUT_RUNTIME);
    StaticData data;
    find_static_data(data);
    const auto address = [](const void* place) {
        return Address(reinterpret_cast<std::uintptr_t>(place));
    };
    EXPECT_GE(data.bytes_from(address(&program_data)), sizeof(program_data));
    EXPECT_GE(data.bytes_from(address(dlsym(RTLD_DEFAULT, "_IO_2_1_stdout_"))), sizeof(int))
        << "the C library, which the program is linked with";
    EXPECT_EQ(data.bytes_from(find(library, "library_data")), 0U)
        << "what can be closed must not be read directly";
}

}  // namespace
}  // namespace echion
