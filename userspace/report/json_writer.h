#pragma once

#include <cstdint>
#include <string_view>

#include "report/text_sink.h"

namespace echion::report {

/// Writes JSON (RFC 8259) on one line, and puts the commas. Who calls it keeps the order: in an
/// object each value follows its key(). Allocates nothing.
class JsonWriter {
  public:
    explicit JsonWriter(TextSink& sink) : sink_(sink) {}

    JsonWriter& begin_object() { return begin('{'); }
    JsonWriter& end_object() { return end('}'); }
    JsonWriter& begin_array() { return begin('['); }
    JsonWriter& end_array() { return end(']'); }
    JsonWriter& key(std::string_view name);

    JsonWriter& string(std::string_view text);
    JsonWriter& number(std::int64_t value);
    JsonWriter& boolean(bool value) { return literal(value ? "true" : "false"); }
    JsonWriter& null() { return literal("null"); }
    /// What is JSON already.
    JsonWriter& literal(std::string_view text);

  private:
    JsonWriter& begin(char bracket);
    JsonWriter& end(char bracket);
    void separate();

    TextSink& sink_;
    bool needs_comma_ = false;  ///< in front of the next key or element
};

}  // namespace echion::report
