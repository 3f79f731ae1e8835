#include "report/json_report.h"

#include <cstdio>

namespace echion::report {
namespace {

// Changes when a reader of the document would have to.
constexpr int kFormat = 1;

/// Names that a value may not have are empty; they are written as null.
std::string_view name_role(capture::GilRole role) {
    switch (role) {
        case capture::GilRole::kHolds:
            return "holding";
        case capture::GilRole::kWaits:
            return "waiting";
        case capture::GilRole::kUnknown:
            break;
    }
    return {};
}

std::string_view name_consistency(capture::Consistency consistency) {
    switch (consistency) {
        case capture::Consistency::kProved:
            return "proved";
        case capture::Consistency::kLikely:
            return "likely";
        case capture::Consistency::kTorn:
            break;
    }
    return "torn";
}

std::string_view name_scheduling(capture::Scheduling scheduling) {
    switch (scheduling) {
        case capture::Scheduling::kOnCpu:
            return "on_cpu";
        case capture::Scheduling::kRunnable:
            return "runnable";
        case capture::Scheduling::kWaiting:
            return "waiting";
        case capture::Scheduling::kUnknown:
            break;
    }
    return {};
}

void put_name(JsonWriter& json, std::string_view key, std::string_view name) {
    json.key(key);
    if (name.empty()) {
        json.null();
    } else {
        json.string(name);
    }
}

void put_id(JsonWriter& json, std::string_view key, std::int64_t id) {
    json.key(key);
    if (id != 0) {
        json.number(id);
    } else {
        json.null();
    }
}

}  // namespace

void put_json_header(JsonWriter& json, std::string_view kind, const ReportHeader& header) {
    json.key("echion").string(ECHION_VERSION);
    json.key("format").number(kFormat);
    json.key("kind").string(kind);
    json.key("pid").number(header.pid);
    json.key("own_pid").number(header.own_pid);
    json.key("command").string(header.command);
    char version[32];
    std::snprintf(version, sizeof(version), "%d.%d.%d", header.version.major, header.version.minor,
                  header.version.micro);
    json.key("python").string(version);
}

void put_json_thread(JsonWriter& json, const capture::CapturedThread& thread,
                     std::string_view name) {
    json.key("interpreter").number(thread.interpreter);
    json.key("name").string(name);
    json.key("main").boolean(thread.is_main);
    put_id(json, "native_id", thread.tid != 0 ? thread.tid : thread.native_id);
    put_id(json, "own_native_id", thread.native_id);
    put_id(json, "ident", static_cast<std::int64_t>(thread.thread_id));
}

void put_json_frame(JsonWriter& json, const capture::SourceFrame& frame) {
    json.begin_object();
    json.key("function").string(frame.function);
    json.key("file").string(frame.file);
    put_id(json, "line", frame.line);
    json.end_object();
}

void JsonReport::begin(const ReportHeader& header) {
    json_.begin_object();
    put_json_header(json_, "where", header);
    json_.key("threads").begin_array();
}

void JsonReport::begin_thread(const capture::CapturedThread& thread, std::string_view name) {
    json_.begin_object();
    put_json_thread(json_, thread, name);
    put_name(json_, "state", name_state(thread.kernel_state));
    put_name(json_, "scheduling", name_scheduling(thread.scheduling));
    put_name(json_, "gil", name_role(thread.gil_role));
    put_name(json_, "consistency", name_consistency(thread.consistency));
    json_.key("truncated").boolean(thread.is_truncated);
    json_.key("broken").boolean(thread.is_broken);
    json_.key("frames").begin_array();
}

void JsonReport::frame(const capture::SourceFrame& frame) { put_json_frame(json_, frame); }

void JsonReport::end_thread() { json_.end_array().end_object(); }

void JsonReport::end(bool is_cut) {
    json_.end_array().key("complete").boolean(!is_cut).end_object();
    sink_.put('\n');
    sink_.flush();
}

}  // namespace echion::report
