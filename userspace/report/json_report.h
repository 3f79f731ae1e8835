#pragma once

#include "report/process_report.h"
#include "report/text_sink.h"

namespace echion::report {

/// A report as one JSON document, on one line; docs/where.md describes its members.
class JsonReport final : public ReportWriter {
  public:
    explicit JsonReport(TextSink& sink) : sink_(sink) {}

    void begin(const ReportHeader& header) override;
    void begin_thread(const capture::CapturedThread& thread, std::string_view name) override;
    void frame(const capture::SourceFrame& frame) override;
    void end_thread() override;
    void end(bool is_cut) override;

  private:
    TextSink& sink_;
    bool has_threads_ = false;
    bool has_frames_ = false;
};

/// The parts that other JSON documents share: members without the braces around them. `kind`: what
/// the document is.
void put_json_header(TextSink& sink, std::string_view kind, const ReportHeader& header);
void put_json_thread(TextSink& sink, const capture::CapturedThread& thread, std::string_view name);
/// A whole object.
void put_json_frame(TextSink& sink, const capture::SourceFrame& frame);

}  // namespace echion::report
