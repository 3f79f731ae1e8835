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
    void frame(const capture::SourceFrame& frame) override;
    void end_thread() override;
    void end(bool is_cut) override;

  private:
    TextSink& sink_;
    JsonWriter json_;
};

/// The parts that other JSON documents share: members of an object that has been begun. `kind`:
/// what the document is.
void put_json_header(JsonWriter& json, std::string_view kind, const ReportHeader& header);
void put_json_thread(JsonWriter& json, const capture::CapturedThread& thread,
                     std::string_view name);
/// A whole object.
void put_json_frame(JsonWriter& json, const capture::SourceFrame& frame);

}  // namespace echion::report
