#include "sampling/code_writer.h"

#include <algorithm>

#include "code/code_registry.h"

namespace echion::sampling {

static_assert(code::kMaxTextBytes <= stream::kMaxTextBytes);
static_assert(code::kMaxTableBytes <= stream::kMaxLineTableBytes);
static_assert(code::CodeRegistry::kMaxIds <= stream::kMaxCodes);
static_assert(static_cast<int>(stream::CodeKind::kLnotab) ==
              static_cast<int>(cpython::LineTableKind::kLnotab));
static_assert(static_cast<int>(stream::CodeKind::kLinetable) ==
              static_cast<int>(cpython::LineTableKind::kLinetable));
static_assert(static_cast<int>(stream::CodeKind::kLocations) ==
              static_cast<int>(cpython::LineTableKind::kLocations));

void write_code(stream::Encoder& encoder, const code::CodeDefinition& code) {
    const auto kind = code.table_kind ? static_cast<stream::CodeKind>(*code.table_kind)
                                      : stream::CodeKind::kLines;
    encoder.code(code.id, kind, static_cast<std::uint32_t>(std::max(code.first_line, 0)), code.name,
                 code.qualified_name, code.file_name, code.line_table);
}

}  // namespace echion::sampling
