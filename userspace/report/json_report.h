#pragma once

#include "report/json_writer.h"
#include "report/process_report.h"

namespace echion::report {

/// A report as one JSON document, on one line; docs/where.md describes its members.
class JsonReport final : public ReportWriter {
  public:
    explicit JsonReport(TextSink& sink) : sink_(sink), json_(sink) {}

    void begin(const ReportHeader& header) override;
    void begin_thread(const capture::CapturedThread& thread, std::string_view name) override;
    void task_begins(std::string_view /*name*/) override {}
    void frame(const capture::SourceFrame& frame) override;
    void end_frames() override;
    void begin_tasks(const capture::CapturedThread& thread) override;
    void begin_greenlets(const capture::CapturedThread& thread) override;
    void begin_task(const TaskLine& line, std::size_t waiter_count,
                    FunctionRef<std::uint32_t(std::size_t)> get_waiter) override;
    void task_frame(const capture::SourceFrame& frame) override;
    void end_task() override;
    void end_tasks() override;
    void end_thread() override;
    void tell_greenlets(const capture::GreenletCapture::Found& found) override { found_ = found; }
    void end(bool is_cut) override;

  private:
    void put_greenlet(const TaskLine& line);

    TextSink& sink_;
    JsonWriter json_;
    bool is_repeated_ = false;  // the task's place: it has been told
    capture::GreenletCapture::Found found_;
};

/// The parts that other JSON documents share: members of an object that has been begun. `kind`:
/// what the document is.
void put_json_header(JsonWriter& json, std::string_view kind, const ReportHeader& header);
void put_json_thread(JsonWriter& json, const capture::CapturedThread& thread,
                     std::string_view name);
/// A whole object.
void put_json_frame(JsonWriter& json, const capture::SourceFrame& frame);

}  // namespace echion::report
