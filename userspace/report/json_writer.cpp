#include "report/json_writer.h"

namespace echion::report {

void JsonWriter::separate() {
    if (needs_comma_) {
        sink_.put(',');
    }
    needs_comma_ = true;
}

JsonWriter& JsonWriter::begin(char bracket) {
    separate();
    sink_.put(bracket);
    needs_comma_ = false;
    return *this;
}

JsonWriter& JsonWriter::end(char bracket) {
    sink_.put(bracket);
    needs_comma_ = true;
    return *this;
}

JsonWriter& JsonWriter::key(std::string_view name) {
    separate();
    sink_.put_json(name);
    sink_.put(':');
    needs_comma_ = false;
    return *this;
}

JsonWriter& JsonWriter::string(std::string_view text) {
    separate();
    sink_.put_json(text);
    return *this;
}

JsonWriter& JsonWriter::number(std::int64_t value) {
    separate();
    sink_.put_number(value);
    return *this;
}

JsonWriter& JsonWriter::literal(std::string_view text) {
    separate();
    sink_.put(text);
    return *this;
}

}  // namespace echion::report
