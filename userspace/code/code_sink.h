#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "cpython/layout.h"

namespace echion::code {

/// What has been read of a code object. Texts are UTF-8, of kMaxTextBytes at most.
struct CodeDefinition {
    std::uint32_t id = 0;
    std::int32_t first_line = 0;
    std::string_view name;
    std::string_view qualified_name;  ///< empty where this version has none
    std::string_view file_name;
    /// None where the table is too large, or cannot be read: what CodeRegistry::find_place() gives
    /// is then a line.
    std::optional<cpython::LineTableKind> table_kind;
    std::span<const std::byte> line_table;  ///< kMaxTableBytes at most
};

constexpr std::size_t kMaxTextBytes = 4096;
constexpr std::size_t kMaxTableBytes = std::size_t{1} << 20;

/// Who is told of code objects as they are met.
class CodeSink {
  public:
    /// The id stands for this code object from now on. What `code` refers to is good until the call
    /// returns.
    virtual void define(const CodeDefinition& code) = 0;

  protected:
    ~CodeSink() = default;
};

}  // namespace echion::code
