#pragma once

#include "report/process_report.h"
#include "report/text_sink.h"

namespace echion::report {

/// Escape sequences for the parts of a report, or none.
struct Palette {
    std::string_view title, thread, detail, warning, function, file, line, plain;

    static Palette colours();
    static Palette none() { return {}; }
};

/// A report for people:
///
///     Process 4711 (python3), Python 3.11.7
///
///         🧵 MainThread: thread 4711, sleeping, waiting for the GIL
///             <module> (/srv/app.py:40)
///             main (/srv/app.py:12)
///
///         🧵 loop: thread 4712, sleeping
///             … frames of the event loop
///             2 tasks of its event loop:
///             Task-1 (main): waits for worker
///                 main (/srv/app.py:20)
///                 worker (work): waits for a Future
///                     work (/srv/app.py:30)
class TextReport final : public ReportWriter {
  public:
    TextReport(TextSink& sink, const Palette& palette) : sink_(sink), palette_(palette) {}

    void begin(const ReportHeader& header) override;
    void begin_thread(const capture::CapturedThread& thread, std::string_view name) override;
    void task_begins(std::string_view name) override { put_begin("task ", name); }
    void greenlet_begins(std::string_view label) override { put_begin("greenlet ", label); }
    void frame(const capture::SourceFrame& frame) override;
    void end_frames() override;
    void begin_tasks(const capture::CapturedThread& thread) override;
    void begin_greenlets(const capture::CapturedThread& thread) override;
    void begin_task(const TaskLine& line, std::size_t waiter_count,
                    FunctionRef<std::uint32_t(std::size_t)> get_waiter) override;
    void task_frame(const capture::SourceFrame& frame) override;
    void end_task() override {}
    void end_tasks() override {}
    void end_thread() override {}
    void tell_greenlets(const capture::GreenletCapture::Found& found) override { found_ = found; }
    void end(bool is_cut) override;

  private:
    void note(std::string_view text);
    void note_of_process(std::string_view text, std::size_t count = 0);
    void put_begin(std::string_view what, std::string_view name);
    void begin_group(std::size_t count, std::string_view one, std::string_view more,
                     std::string_view whose, bool is_torn, bool is_cut);
    void put_awaited(const TaskLine& line);
    void put_state(const TaskLine& line);
    void indent_task(std::size_t depth);

    TextSink& sink_;
    Palette palette_;
    bool has_frames_ = false;
    std::size_t task_depth_ = 0;
    bool is_running_ = false;  // the task, whose frames are the thread's
    capture::GreenletCapture::Found found_;
};

/// Writes `Process 4711 (python3), Python 3.11.7`.
void put_process(TextSink& sink, const ReportHeader& header);

/// Writes what follows a thread's name: its id, state and GIL role, separated by commas.
void put_thread_details(TextSink& sink, const capture::CapturedThread& thread);

/// Writes `function (file:line)`.
void put_frame(TextSink& sink, const Palette& palette, const capture::SourceFrame& frame);

}  // namespace echion::report
