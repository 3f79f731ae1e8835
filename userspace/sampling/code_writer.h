#pragma once

#include "code/code_sink.h"
#include "stream/encoder.h"

namespace echion::sampling {

/// Writes what has been read of a code object into the stream.
void write_code(stream::Encoder& encoder, const code::CodeDefinition& code);

}  // namespace echion::sampling
