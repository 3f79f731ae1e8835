#include "report/json_report.h"

namespace echion::report {
namespace {

// Changes when a reader of the document would have to.
constexpr int kFormat = 1;

std::string_view name_role(capture::GilRole role) {
    switch (role) {
        case capture::GilRole::kHolds:
            return "\"holding\"";
        case capture::GilRole::kWaits:
            return "\"waiting\"";
        case capture::GilRole::kUnknown:
            break;
    }
    return "null";
}

std::string_view name_consistency(capture::Consistency consistency) {
    switch (consistency) {
        case capture::Consistency::kProved:
            return "\"proved\"";
        case capture::Consistency::kLikely:
            return "\"likely\"";
        case capture::Consistency::kTorn:
            break;
    }
    return "\"torn\"";
}

std::string_view name_scheduling(capture::Scheduling scheduling) {
    switch (scheduling) {
        case capture::Scheduling::kOnCpu:
            return "\"on_cpu\"";
        case capture::Scheduling::kRunnable:
            return "\"runnable\"";
        case capture::Scheduling::kWaiting:
            return "\"waiting\"";
        case capture::Scheduling::kUnknown:
            break;
    }
    return "null";
}

void put_bool(TextSink& sink, bool value) { sink.put(value ? "true" : "false"); }

void put_id(TextSink& sink, std::int64_t id) {
    if (id != 0) {
        sink.put_number(id);
    } else {
        sink.put("null");
    }
}

}  // namespace

void put_json_header(TextSink& sink, std::string_view kind, const ReportHeader& header) {
    sink.put(R"("echion":")" ECHION_VERSION R"(","format":)");
    sink.put_number(kFormat);
    sink.put(R"(,"kind":)");
    sink.put_json(kind);
    sink.put(R"(,"pid":)");
    sink.put_number(header.pid);
    sink.put(R"(,"own_pid":)");
    sink.put_number(header.own_pid);
    sink.put(R"(,"command":)");
    sink.put_json(header.command);
    sink.put(R"(,"python":")");
    sink.put_number(header.version.major);
    sink.put('.');
    sink.put_number(header.version.minor);
    sink.put('.');
    sink.put_number(header.version.micro);
    sink.put('"');
}

void put_json_thread(TextSink& sink, const capture::CapturedThread& thread, std::string_view name) {
    sink.put(R"("interpreter":)");
    sink.put_number(thread.interpreter);
    sink.put(R"(,"name":)");
    sink.put_json(name);
    sink.put(R"(,"main":)");
    put_bool(sink, thread.is_main);
    sink.put(R"(,"native_id":)");
    put_id(sink, thread.tid != 0 ? thread.tid : thread.native_id);
    sink.put(R"(,"own_native_id":)");
    put_id(sink, thread.native_id);
    sink.put(R"(,"ident":)");
    if (thread.thread_id != 0) {
        sink.put_number(static_cast<std::int64_t>(thread.thread_id));
    } else {
        sink.put("null");
    }
}

void put_json_frame(TextSink& sink, const capture::SourceFrame& frame) {
    sink.put(R"({"function":)");
    sink.put_json(frame.function);
    sink.put(R"(,"file":)");
    sink.put_json(frame.file);
    sink.put(R"(,"line":)");
    put_id(sink, frame.line);
    sink.put('}');
}

void JsonReport::begin(const ReportHeader& header) {
    sink_.put('{');
    put_json_header(sink_, "where", header);
    sink_.put(R"(,"threads":[)");
    has_threads_ = false;
}

void JsonReport::begin_thread(const capture::CapturedThread& thread, std::string_view name) {
    if (has_threads_) {
        sink_.put(',');
    }
    has_threads_ = true;
    has_frames_ = false;
    sink_.put('{');
    put_json_thread(sink_, thread, name);
    sink_.put(R"(,"state":)");
    if (const std::string_view state = name_state(thread.kernel_state); !state.empty()) {
        sink_.put_json(state);
    } else {
        sink_.put("null");
    }
    sink_.put(R"(,"scheduling":)");
    sink_.put(name_scheduling(thread.scheduling));
    sink_.put(R"(,"gil":)");
    sink_.put(name_role(thread.gil_role));
    sink_.put(R"(,"consistency":)");
    sink_.put(name_consistency(thread.consistency));
    sink_.put(R"(,"truncated":)");
    put_bool(sink_, thread.is_truncated);
    sink_.put(R"(,"broken":)");
    put_bool(sink_, thread.is_broken);
    sink_.put(R"(,"frames":[)");
}

void JsonReport::frame(const capture::SourceFrame& frame) {
    if (has_frames_) {
        sink_.put(',');
    }
    has_frames_ = true;
    put_json_frame(sink_, frame);
}

void JsonReport::end_thread() { sink_.put("]}"); }

void JsonReport::end(bool is_cut) {
    sink_.put(R"(],"complete":)");
    put_bool(sink_, !is_cut);
    sink_.put("}\n");
    sink_.flush();
}

}  // namespace echion::report
