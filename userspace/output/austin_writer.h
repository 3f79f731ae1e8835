#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "model/stack_sink.h"
#include "output/output_file.h"
#include "output/profile_writer.h"

namespace echion::output {

/// Writes Austin's collapsed text, in the form that austin-python 1.7 and 2.x, flamegraph.pl and
/// speedscope all read without a filter:
///
///     # mode: wall                     header: one line a key; a bare number is followed by a
///     # interval: 1000⎵                space, or flamegraph.pl and speedscope would take the line
///                                      for a stack
///     P42;T0:MainThread;app.py:<module>:3;app.py:work:7 1000
///     …                                one line a sample, root first, then the metric
///
///     # duration: 2000000⎵             footer
///
/// Frames that stand for no code: `;:<label>:0` a task, `;:GC:0` (last) the garbage collector,
/// `;:INVALID:0` and `;:TRUNCATED:0` (first) a stack that is not what it should be, `;:TRUNCATED:0`
/// (last) a line that got too long, `;:MISSED:0` (alone) time that nobody looked at. With a line's
/// number, as austin-python 1.7 drops a whole line that has a frame without one.
class AustinWriter final : public ProfileWriter {
  public:
    explicit AustinWriter(OutputFile& file, const WriterLimits& limits = {})
        : ProfileWriter(file, limits) {}

    std::unique_ptr<model::StackSink> add_process(std::int64_t pid) override;

  private:
    class Process;

    void write_header(const Metadata& header) override;
    void write_footer(std::string_view key, std::string_view value) override;

    std::string scratch_;
    bool footer_begun_ = false;
};

}  // namespace echion::output
