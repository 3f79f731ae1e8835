// The way of hostile bytes through the program: decoder, profile builder, writer. The input is a
// row of batches, each behind its size as two bytes, little-endian.

#include <sched.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "model/profile_builder.h"
#include "output/austin_writer.h"
#include "stream/decoder.h"

using namespace echion;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static output::OutputFile sink = output::OutputFile::open("/dev/null").value();
    output::AustinWriter writer(sink);
    const auto process = writer.add_process(1);
    const auto metric = size % 2 == 0 ? model::Metric::kWallTime : model::Metric::kCpuTime;
    model::ProfileBuilder builder(*process, metric,
                                  [](const model::CodeView& code, std::int32_t offset) {
                                      return code.first_line + static_cast<std::uint32_t>(offset);
                                  });
    stream::Decoder decoder(builder, {.definition_bytes = 1 << 20, .live_frames = 1 << 16});
    while (size >= 2) {
        const std::size_t batch_bytes = data[0] | static_cast<std::size_t>(data[1]) << 8U;
        data += 2;
        size -= 2;
        const std::size_t taken = batch_bytes < size ? batch_bytes : size;
        if (!decoder.decode({reinterpret_cast<const std::byte*>(data), taken})) {
            break;
        }
        data += taken;
        size -= taken;
    }
    builder.finish();
    while (sink.is_behind()) {
        sched_yield();
    }
    return 0;
}
