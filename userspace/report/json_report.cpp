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

std::string_view name_task_state(capture::TaskState state) {
    switch (state) {
        case capture::TaskState::kSuspended:
            return "suspended";
        case capture::TaskState::kRunning:
            return "running";
        case capture::TaskState::kNotStarted:
            return "not started";
        case capture::TaskState::kFinished:
            return "ending";
        case capture::TaskState::kElsewhere:
            break;
    }
    return "running elsewhere";
}

std::string_view name_kind(capture::TaskKind kind) {
    switch (kind) {
        case capture::TaskKind::kMainGreenlet:
            return "main";
        case capture::TaskKind::kHub:
            return "hub";
        case capture::TaskKind::kGreenlet:
            return "greenlet";
        case capture::TaskKind::kTask:
            break;
    }
    return "task";
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

void JsonReport::end_frames() { json_.end_array(); }

void JsonReport::begin_tasks(const capture::CapturedThread& thread) {
    put_name(json_, "tasks_consistency", name_consistency(thread.tasks_consistency));
    json_.key("tasks_complete").boolean(!thread.are_tasks_cut);
    json_.key("tasks").begin_array();
}

void JsonReport::begin_greenlets(const capture::CapturedThread& thread) {
    put_name(json_, "greenlets_consistency", name_consistency(thread.tasks_consistency));
    json_.key("greenlets_complete").boolean(!thread.are_greenlets_cut);
    json_.key("greenlets").begin_array();
}

void JsonReport::put_greenlet(const TaskLine& line) {
    put_name(json_, "type", line.type);
    json_.key("kind").string(name_kind(line.task.kind));
    put_name(json_, "function", line.coroutine);
    put_id(json_, "parent", line.parent);
}

void JsonReport::begin_task(const TaskLine& line, std::size_t waiter_count,
                            FunctionRef<std::uint32_t(std::size_t)> get_waiter) {
    is_repeated_ = line.node.is_repeated;
    if (is_repeated_) {
        return;
    }
    json_.begin_object();
    json_.key("id").number(line.node.id);
    put_name(json_, "name", line.name);
    if (line.task.kind == capture::TaskKind::kTask) {
        put_name(json_, "coroutine", line.coroutine);
    } else {
        put_greenlet(line);
    }
    json_.key("state").string(name_task_state(line.task.state));
    put_name(json_, "waits_for", line.awaited);
    json_.key("waiters").begin_array();
    for (std::size_t i = 0; i < waiter_count; ++i) {
        json_.number(get_waiter(i));
    }
    json_.end_array();
    json_.key("truncated").boolean(line.task.is_truncated);
    json_.key("broken").boolean(line.task.is_broken);
    json_.key("frames").begin_array();
}

void JsonReport::task_frame(const capture::SourceFrame& frame) { put_json_frame(json_, frame); }

void JsonReport::end_task() {
    if (!is_repeated_) {
        json_.end_array().end_object();
    }
}

void JsonReport::end_tasks() { json_.end_array(); }

void JsonReport::end_thread() { json_.end_object(); }

void JsonReport::end(bool is_cut) {
    json_.end_array().key("complete").boolean(!is_cut);
    if (found_.is_there) {
        json_.key("greenlets_found").boolean(found_.is_whole);
        json_.key("greenlets_unreadable").number(static_cast<std::int64_t>(found_.unreadable));
        json_.key("greenlets_unplaced").number(static_cast<std::int64_t>(found_.unplaced));
    }
    json_.end_object();
    sink_.put('\n');
    sink_.flush();
}

}  // namespace echion::report
