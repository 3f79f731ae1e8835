#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "model/stack_sink.h"
#include "output/output_file.h"
#include "output/profile_writer.h"

namespace echion::output {

/// Writes MOJO, Austin's binary format, in version 3 (austin-python's austin/format/mojo.py reads
/// it). A stream of events, each a byte and its fields:
///
///     "MOJ" 3
///     METADATA key value                       header, figures
///     STACK pid interpreter thread             a record
///       STRING key text      ⎫ what this process's records need
///       FRAME key file …     ⎭ and is not defined yet
///       FRAME_REF key …                        root first
///       GC                                     in the garbage collector
///       METRIC_TIME µs
///
/// A number's first byte holds whether another one follows, the sign and 6 bits, each further one
/// whether another one follows and 7 bits; low bits first. A text ends in a zero.
///
/// Readers drop the event FRAME_INVALID, and some the flag that GC sets. So `INVALID`, `TRUNCATED`,
/// `MISSED`, `GC` and labels are frames, as in Austin's text: without a file, in line 0. Names are
/// those of Austin's text, too.
class MojoWriter final : public ProfileWriter {
  public:
    explicit MojoWriter(OutputFile& file, const WriterLimits& limits = {});

    std::unique_ptr<model::StackSink> add_process(std::int64_t pid) override;

  private:
    class Process;

    void write_header(const Metadata& header) override;
    void write_footer(std::string_view key, std::string_view value) override;

    // Readers keep keys by process id, which several processes may have, one after the other. So no
    // key is used twice in a file.
    std::uint64_t next_key_;
};

}  // namespace echion::output
