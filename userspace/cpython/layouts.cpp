#include <array>
#include <cstddef>

#include "cpython/layout.h"

// The table of layouts. The rows are data, generated from the interpreters' own headers; this is
// the only place that chooses one by version.

namespace echion::cpython {

namespace {

constexpr auto kLp64Rows = std::to_array<Layout>({
#include "cpython/layouts_lp64.inc"
});

constexpr auto kLp64FreeThreadedRows = std::to_array<Layout>({
#include "cpython/layouts_lp64t.inc"
});

constexpr auto kIlp32Rows = std::to_array<Layout>({
#include "cpython/layouts_ilp32.inc"
});

const Layout* find(std::span<const Layout> rows, Version version) {
    for (const Layout& row : rows) {
        if (row.major == version.major && row.minor == version.minor) {
            return &row;
        }
    }
    return nullptr;
}

}  // namespace

std::span<const Layout> layouts_of_abi(int pointer_bytes) {
    switch (pointer_bytes) {
        case 8:
            return kLp64Rows;
        case 4:
            return kIlp32Rows;
        default:
            return {};
    }
}

std::span<const Layout> known_layouts() { return layouts_of_abi(int{sizeof(void*)}); }

std::span<const Layout> free_threaded_layouts() {
    return sizeof(void*) == 8 ? std::span<const Layout>(kLp64FreeThreadedRows)
                              : std::span<const Layout>();
}

const Layout* find_layout(Version version) { return find(known_layouts(), version); }

const Layout* find_free_threaded_layout(Version version) {
    return find(free_threaded_layouts(), version);
}

}  // namespace echion::cpython
