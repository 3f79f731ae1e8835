// The search for CPython among the objects that a process has mapped. This process stands for it;
// of its memory only one mapped object can be read, and that is the input.
//
//      input:  the object, at most MappedObject::kBytes of it

#include <cstdint>
#include <string_view>

#include "cpython/locate.h"
#include "fuzz_support.h"
#include "mapped_object.h"
#include "platform/process_modules.h"

using namespace echion;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static fuzz::MappedObject object;
    object.fill(0, {data, size});
    fuzz::ImageReader reader(object.base(), object.bytes());
    cpython::LocatedRuntime located;
    const Status status = cpython::locate_runtime(reader, kOwnProcess, located);
    if (status) {
        fuzz::require(located.view.layout != nullptr && located.view.version.major == 3);
        fuzz::require(located.module_base.value() == object.base());
    }
    fuzz::require(std::string_view(located.module_path, sizeof(located.module_path)).find('\0') !=
                  std::string_view::npos);
    return 0;
}
