// How reports are written down: escapes, UTF-8, the text and JSON forms.

#include "report/text_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <string>
#include <vector>

#include "report/json_report.h"
#include "report/text_sink.h"

namespace echion::report {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

/// A sink over a buffer so small that every test flushes within its texts.
template <typename Write>
std::string collect(Write write) {
    std::string text;
    std::array<char, 7> buffer;
    const auto keep = [&text](std::string_view part) { text += part; };
    {
        TextSink sink(buffer, keep);
        write(sink);
    }
    return text;
}

std::string printable(std::string_view text) {
    return collect([text](TextSink& sink) { sink.put_printable(text); });
}

std::string json(std::string_view text) {
    return collect([text](TextSink& sink) { sink.put_json(text); });
}

TEST(TextSink, WritesNumbers) {
    EXPECT_EQ(collect([](TextSink& sink) { sink.put_number(0); }), "0");
    EXPECT_EQ(collect([](TextSink& sink) { sink.put_number(-305); }), "-305");
    EXPECT_EQ(
        collect([](TextSink& sink) { sink.put_number(std::numeric_limits<std::int64_t>::min()); }),
        "-9223372036854775808");
}

TEST(TextSink, LeavesTextInAnyScriptAlone) {
    EXPECT_EQ(printable("plain é 世界 🧵"), "plain é 世界 🧵");
}

TEST(TextSink, EscapesWhatPlaysWithTheTerminal) {
    EXPECT_EQ(printable("a\x1b[2Jb"), "a\\x1b[2Jb");
    EXPECT_EQ(printable("a\nb\tc\x7f"), "a\\x0ab\\x09c\\x7f");
    EXPECT_EQ(printable("\xc2\x9b"), "\\x9b");                // C1: a control sequence introducer
    EXPECT_EQ(printable("\xe2\x80\xae"), "\\u202e");          // right-to-left override
    EXPECT_EQ(printable("\xf3\xa0\x81\x81"), "\\U000e0041");  // a tag
    EXPECT_EQ(printable(std::string_view("\0", 1)), "\\x00");
}

TEST(TextSink, ReplacesWhatIsNotUtf8) {
    EXPECT_EQ(printable("a\xff"), "a\xef\xbf\xbd");
    EXPECT_EQ(printable("\xc0\x80"), "\xef\xbf\xbd\xef\xbf\xbd");  // overlong
    EXPECT_EQ(printable("\xe2\x82"), "\xef\xbf\xbd\xef\xbf\xbd");  // cut short
    EXPECT_EQ(printable("\xed\xa0\x80").size(), 9U);               // a surrogate
    EXPECT_EQ(printable("\xf4\x90\x80\x80").size(), 12U);          // above U+10FFFF
    EXPECT_EQ(printable("\xe2z"), "\xef\xbf\xbdz");  // the byte behind is not swallowed
}

TEST(TextSink, QuotesJsonStrings) {
    EXPECT_EQ(json("plain"), "\"plain\"");
    EXPECT_EQ(json(""), "\"\"");
    EXPECT_EQ(json("a\"b\\c/"), "\"a\\\"b\\\\c/\"");
    EXPECT_EQ(json("\x1b\n\x7f"), "\"\\u001b\\u000a\\u007f\"");
    EXPECT_EQ(json("\xc2\x9b\xe2\x80\xa8"), "\"\\u009b\\u2028\"");
    EXPECT_EQ(json("é世🧵"), "\"é世🧵\"");
    EXPECT_EQ(json("\xff\xfe"), "\"\xef\xbf\xbd\xef\xbf\xbd\"");
}

TEST(TextSink, KnowsHowWideCharactersAre) {
    EXPECT_EQ(column_width('a'), 1);
    EXPECT_EQ(column_width(U'é'), 1);
    EXPECT_EQ(column_width(U'世'), 2);
    EXPECT_EQ(column_width(U'🧵'), 2);
    EXPECT_EQ(column_width(0x301), 0);
}

capture::CapturedThread make_thread() {
    capture::CapturedThread thread;
    thread.native_id = 12;
    thread.tid = 12;
    thread.kernel_state = 'S';
    thread.thread_id = 4096;
    return thread;
}

std::string text_of(const capture::CapturedThread& thread, std::string_view name,
                    const Palette& palette = Palette::none()) {
    return collect([&](TextSink& sink) {
        TextReport report(sink, palette);
        ReportWriter& writer = report;
        writer.begin({7, 7, "py\x1b", {3, 12, 1}});
        writer.begin_thread(thread, name);
        writer.frame({"main", "/a b.py", 3});
        writer.frame({"inner", "/a b.py", 0});
        writer.end_frames();
        writer.end_thread();
        writer.end(false);
    });
}

TEST(TextReport, WritesAThreadWithItsFrames) {
    EXPECT_EQ(text_of(make_thread(), "worker"),
              "Process 7 (py\\x1b), Python 3.12.1\n"
              "\n"
              "    🧵 worker: thread 12, sleeping\n"
              "        main (/a b.py:3)\n"
              "        inner (/a b.py:?)\n"
              "\n");
}

TEST(TextReport, TellsAllThatIsKnownOfAThread) {
    capture::CapturedThread thread = make_thread();
    thread.native_id = 3;
    thread.interpreter = 2;
    thread.kernel_state = 'D';
    thread.gil_role = capture::GilRole::kWaits;
    EXPECT_THAT(
        text_of(thread, "w"),
        HasSubstr("w: thread 12 (own id 3), interpreter 2, disk sleep, waiting for the GIL"));
    thread.gil_role = capture::GilRole::kHolds;
    EXPECT_THAT(text_of(thread, "w"), HasSubstr("disk sleep, holding the GIL\n"));
    thread.tid = 0;
    EXPECT_THAT(text_of(thread, "w"), HasSubstr("thread 3, interpreter 2, ended"));
    thread.native_id = 0;
    thread.kernel_state = '?';
    thread.gil_role = capture::GilRole::kUnknown;
    thread.interpreter = 0;
    EXPECT_THAT(text_of(thread, "w"), HasSubstr("w: \n"));
}

TEST(TextReport, TellsAThreadOnACpuFromARunnableOne) {
    capture::CapturedThread thread = make_thread();
    thread.kernel_state = 'R';
    thread.scheduling = capture::Scheduling::kOnCpu;
    EXPECT_THAT(text_of(thread, "w"), HasSubstr("w: thread 12, on CPU\n"));
    thread.scheduling = capture::Scheduling::kRunnable;
    EXPECT_THAT(text_of(thread, "w"), HasSubstr("w: thread 12, runnable\n"));
    thread.scheduling = capture::Scheduling::kUnknown;
    EXPECT_THAT(text_of(thread, "w"), HasSubstr("w: thread 12, on CPU or runnable\n"));
}

TEST(TextReport, MarksStacksThatAreNotWhole) {
    capture::CapturedThread thread = make_thread();
    thread.consistency = capture::Consistency::kTorn;
    EXPECT_THAT(text_of(thread, "w"), HasSubstr("may not belong together"));
    thread.consistency = capture::Consistency::kProved;
    thread.is_truncated = true;
    EXPECT_THAT(text_of(thread, "w"), HasSubstr("(more frames above these)"));
    thread.is_truncated = false;
    thread.is_broken = true;
    EXPECT_THAT(text_of(thread, "w"), HasSubstr("could not be read"));
}

TEST(TextReport, UsesColoursOnlyWhenAsked) {
    EXPECT_THAT(text_of(make_thread(), "w"), Not(HasSubstr("\x1b")));
    EXPECT_THAT(text_of(make_thread(), "w", Palette::colours()), HasSubstr("\x1b[33mmain\x1b[0m"));
}

TEST(TextReport, SaysSoWhenAThreadHasNoFrames) {
    const std::string text = collect([](TextSink& sink) {
        TextReport writer(sink, Palette::none());
        writer.begin_thread(make_thread(), "c");
        writer.end_frames();
        writer.end_thread();
        writer.end(true);
    });
    EXPECT_THAT(text, HasSubstr("(no Python frames)"));
    EXPECT_THAT(text, HasSubstr("there are more threads"));
}

/// What a report says of a task, as it is at its place in the tree.
struct ToldTask {
    capture::CapturedTask task{};
    TaskTree::Node node{0, 1, 0, false, 0};
    std::string_view name = "Task-1";
    std::string_view coroutine = "main";
    std::string_view awaited;
    std::string_view first_child;
    std::vector<std::uint32_t> waiters;
};

void tell(ReportWriter& writer, const ToldTask& told) {
    writer.begin_task(
        {told.task, told.node, told.name, told.coroutine, told.awaited, told.first_child},
        told.waiters.size(), [&](std::size_t i) { return told.waiters[i]; });
    if (!told.node.is_repeated) {
        writer.task_frame({told.coroutine, "/a.py", 3});
    }
    writer.end_task();
}

/// The tasks' part of a report: what stands behind the frames of a thread.
template <typename Writer, typename... Arguments>
std::string tasks_of(const capture::CapturedThread& thread, const std::vector<ToldTask>& tasks,
                     const Arguments&... arguments) {
    std::string text = collect([&](TextSink& sink) {
        Writer report(sink, arguments...);
        ReportWriter& writer = report;
        writer.begin({});
        writer.begin_thread(thread, "loop");
        writer.frame({"last", "/a.py", 1});
        writer.end_frames();
        writer.begin_tasks(thread);
        for (const ToldTask& task : tasks) {
            tell(writer, task);
        }
        writer.end_tasks();
        writer.end_thread();
        writer.end(false);
    });
    const std::size_t last = text.find("last");
    return text.substr(text.find_first_of("\n}", last) + 1);
}

capture::CapturedThread thread_with_tasks(std::size_t count) {
    capture::CapturedThread thread = make_thread();
    thread.has_tasks = true;
    thread.task_count = count;
    return thread;
}

std::string task_text(const std::vector<ToldTask>& tasks) {
    return tasks_of<TextReport>(thread_with_tasks(tasks.size()), tasks, Palette::none());
}

TEST(TextReport, WritesTasksBelowThoseThatWaitForThem) {
    ToldTask main;
    main.node.children = 1;
    main.first_child = "work\x1b";
    main.awaited = "Task";
    ToldTask worker;
    worker.node = {1, 2, 1, false, 0};
    worker.name = "work\x1b";
    worker.coroutine = "work";
    worker.awaited = "Future";
    ToldTask repeated = worker;
    repeated.node.is_repeated = true;
    EXPECT_EQ(task_text({main, worker, repeated}),
              "        3 tasks of its event loop:\n"
              "        Task-1 (main): waits for work\\x1b\n"
              "            main (/a.py:3)\n"
              "            work\\x1b (work): waits for a Future\n"
              "                work (/a.py:3)\n"
              "            work\\x1b (work): see above\n"
              "\n");
}

TEST(TextReport, SaysWhatATaskDoes) {
    ToldTask told;
    EXPECT_THAT(task_text({told}), HasSubstr("1 task of its event loop:\n"));
    EXPECT_THAT(task_text({told}), HasSubstr("Task-1 (main): about to run\n"));
    told.node.children = 12;
    told.first_child = "other";
    EXPECT_THAT(task_text({told}), HasSubstr("Task-1 (main): waits for 12 tasks\n"));
    told.task.state = capture::TaskState::kNotStarted;
    EXPECT_THAT(task_text({told}), HasSubstr("Task-1 (main): not started yet\n"));
    told.task.state = capture::TaskState::kFinished;
    EXPECT_THAT(task_text({told}), HasSubstr("Task-1 (main): ending\n"));
    told.task.state = capture::TaskState::kElsewhere;
    EXPECT_THAT(task_text({told}), HasSubstr("running, its frames could not be found\n"));
    told.task.state = capture::TaskState::kRunning;
    EXPECT_THAT(task_text({told}), HasSubstr("Task-1 (main): running\n"));
    EXPECT_THAT(task_text({told}), Not(HasSubstr("/a.py:3"))) << "they are the thread's last";
    told.name = "";
    told.coroutine = "";
    EXPECT_THAT(task_text({told}), HasSubstr("<unknown>: running\n"));
}

TEST(TextReport, MarksTasksThatAreNotWhole) {
    ToldTask told;
    told.task.is_truncated = true;
    EXPECT_THAT(task_text({told}), HasSubstr("            (more frames below these)\n"));
    told.task.is_broken = true;
    EXPECT_THAT(task_text({told}),
                HasSubstr("            (the frames below these could not be read)\n"));
    told.node.is_repeated = true;
    EXPECT_THAT(task_text({told}), Not(HasSubstr("below these")));
    capture::CapturedThread thread = thread_with_tasks(0);
    const auto text = [&] { return tasks_of<TextReport>(thread, {}, Palette::none()); };
    EXPECT_EQ(text(), "        0 tasks of its event loop\n\n");
    thread.are_tasks_cut = true;
    EXPECT_THAT(text(), HasSubstr("(there may be more"));
    thread.tasks_consistency = capture::Consistency::kTorn;
    EXPECT_THAT(text(), HasSubstr("(they changed while they were read"));
}

TEST(TextReport, SaysWhichFramesAreATasks) {
    const std::string text = collect([](TextSink& sink) {
        TextReport writer(sink, Palette::none());
        writer.frame({"run", "/loop.py", 1});
        writer.task_begins("Task-\x1b");
        writer.frame({"main", "/a.py", 2});
        writer.end_frames();
        writer.end(false);
    });
    EXPECT_EQ(text,
              "        run (/loop.py:1)\n"
              "        task Task-\\x1b:\n"
              "        main (/a.py:2)\n"
              "\n");
}

TEST(JsonReport, WritesEachTaskOnceWithWhoWaitsForIt) {
    ToldTask main;
    main.name = "ma\"in";
    main.task.state = capture::TaskState::kRunning;
    ToldTask worker;
    worker.node = {1, 2, 1, false, 0};
    worker.name = "";
    worker.coroutine = "";
    worker.awaited = "Future";
    worker.waiters = {1, 3};
    worker.task.is_broken = true;
    ToldTask repeated = worker;
    repeated.node.is_repeated = true;
    capture::CapturedThread thread = thread_with_tasks(2);
    thread.tasks_consistency = capture::Consistency::kLikely;
    thread.are_tasks_cut = true;
    EXPECT_EQ(tasks_of<JsonReport>(thread, {main, worker, repeated}),
              R"(],"tasks_consistency":"likely","tasks_complete":false,"tasks":[)"
              R"({"id":1,"name":"ma\"in","coroutine":"main","state":"running","waits_for":null,)"
              R"("waiters":[],"truncated":false,"broken":false,)"
              R"("frames":[{"function":"main","file":"/a.py","line":3}]},)"
              R"({"id":2,"name":null,"coroutine":null,"state":"suspended","waits_for":"Future",)"
              R"("waiters":[1,3],"truncated":false,"broken":true,)"
              R"("frames":[{"function":"","file":"/a.py","line":3}]}]}],"complete":true})"
              "\n");
}

/// A greenlet that waits for two others, at its place in the tree.
ToldTask told_greenlet() {
    ToldTask told;
    told.task.kind = capture::TaskKind::kGreenlet;
    told.task.waits_for_count = 2;
    told.node.children = 3;
    told.name = "";
    told.coroutine = "run";
    return told;
}

template <typename Writer, typename... Arguments>
std::string greenlets_of(const capture::CapturedThread& thread, const ToldTask& told,
                         const capture::GreenletCapture::Found& found,
                         const Arguments&... arguments) {
    return collect([&](TextSink& sink) {
        Writer report(sink, arguments...);
        ReportWriter& writer = report;
        writer.begin({});
        writer.begin_thread(thread, "w");
        writer.greenlet_begins("Hub\x1b");
        writer.end_frames();
        writer.begin_greenlets(thread);
        writer.begin_task({.task = told.task,
                           .node = told.node,
                           .name = told.name,
                           .coroutine = told.coroutine,
                           .awaited = told.awaited,
                           .first_child = told.first_child,
                           .type = "Greenlet",
                           .label = "Greenlet#1\x1b",
                           .parent = 7},
                          told.waiters.size(), [&](std::size_t i) { return told.waiters[i]; });
        writer.task_frame({told.coroutine, "/a.py", 3});
        writer.end_task();
        writer.end_tasks();
        writer.end_thread();
        writer.tell_greenlets(found);
        writer.end(false);
    });
}

std::string greenlet_text(const ToldTask& told, const capture::GreenletCapture::Found& found = {}) {
    capture::CapturedThread thread = make_thread();
    thread.greenlet_count = 1;
    return greenlets_of<TextReport>(thread, told, found, Palette::none());
}

TEST(TextReport, WritesGreenlets) {
    ToldTask told = told_greenlet();
    EXPECT_THAT(greenlet_text(told),
                HasSubstr("        greenlet Hub\\x1b:\n"
                          "        (no Python frames)\n"
                          "        1 greenlet:\n"
                          "        Greenlet#1\\x1b (run): waits for 2 greenlets\n"
                          "            run (/a.py:3)\n"));
    told.task.waits_for_count = 1;
    told.first_child = "other";
    EXPECT_THAT(greenlet_text(told), HasSubstr("(run): waits for other\n"));
    told.task.waits_for_count = 0;
    told.awaited = "Event";
    EXPECT_THAT(greenlet_text(told), HasSubstr("(run): waits for a Event\n"));
    told.awaited = "";
    EXPECT_THAT(greenlet_text(told), HasSubstr("(run): suspended\n"));
    told.task.state = capture::TaskState::kNotStarted;
    EXPECT_THAT(greenlet_text(told), HasSubstr("(run): not started yet\n"));
}

TEST(TextReport, SaysWhichGreenletsAreMissing) {
    EXPECT_THAT(greenlet_text(told_greenlet(), {.is_there = true}), Not(HasSubstr("greenlets wh")));
    EXPECT_THAT(greenlet_text(told_greenlet(), {.is_there = true, .is_whole = false}),
                HasSubstr("    (there may be more greenlets, which were not found)\n"));
    EXPECT_THAT(greenlet_text(told_greenlet(), {.is_there = true, .unreadable = 12}),
                HasSubstr("structures are not known: 12)\n"));
    EXPECT_THAT(
        greenlet_text(told_greenlet(), {.is_there = true, .unplaced = 3}),
        HasSubstr("    (greenlets that have not started, and whose thread nothing shows: 3)\n"));
}

TEST(JsonReport, WritesGreenlets) {
    ToldTask told = told_greenlet();
    told.task.kind = capture::TaskKind::kHub;
    told.waiters = {2};
    capture::CapturedThread thread = make_thread();
    thread.are_greenlets_cut = true;
    const std::string text = greenlets_of<JsonReport>(
        thread, told, {.is_there = true, .is_whole = false, .unreadable = 4, .unplaced = 5});
    EXPECT_EQ(text.substr(text.find("],\"greenlets_cons")),
              R"(],"greenlets_consistency":"proved","greenlets_complete":false,"greenlets":[)"
              R"({"id":1,"name":null,"type":"Greenlet","kind":"hub","function":"run","parent":7,)"
              R"("state":"suspended","waits_for":null,"waiters":[2],"truncated":false,)"
              R"("broken":false,"frames":[{"function":"run","file":"/a.py","line":3}]}]}],)"
              R"("complete":true,"greenlets_found":false,"greenlets_unreadable":4,)"
              R"("greenlets_unplaced":5})"
              "\n");
}

TEST(JsonReport, WritesOneDocument) {
    capture::CapturedThread main = make_thread();
    main.is_main = true;
    main.scheduling = capture::Scheduling::kWaiting;
    capture::CapturedThread other = make_thread();
    other.tid = 0;
    other.native_id = 0;
    other.thread_id = 0;
    other.kernel_state = '?';
    other.gil_role = capture::GilRole::kWaits;
    other.consistency = capture::Consistency::kTorn;
    const std::string text = collect([&](TextSink& sink) {
        JsonReport writer(sink);
        writer.begin({7, 1, "py\"", {3, 8, 18}});
        writer.begin_thread(main, "Main\"Thread");
        writer.frame({"a", "/f.py", 3});
        writer.frame({"b", "/f.py", 0});
        writer.end_frames();
        writer.end_thread();
        writer.begin_thread(other, "o");
        writer.end_frames();
        writer.end_thread();
        writer.end(false);
    });
    EXPECT_EQ(
        text,
        R"({"echion":")" ECHION_VERSION
        R"(","format":1,"kind":"where","pid":7,"own_pid":1,"command":"py\"","python":"3.8.18","threads":[)"
        R"({"interpreter":0,"name":"Main\"Thread","main":true,"native_id":12,)"
        R"("own_native_id":12,"ident":4096,"state":"sleeping","scheduling":"waiting","gil":null,)"
        R"("consistency":"proved","truncated":false,"broken":false,"frames":[)"
        R"({"function":"a","file":"/f.py","line":3},{"function":"b","file":"/f.py","line":null}]},)"
        R"({"interpreter":0,"name":"o","main":false,"native_id":null,"own_native_id":null,)"
        R"("ident":null,"state":null,"scheduling":null,"gil":"waiting","consistency":"torn","truncated":false,)"
        R"("broken":false,"frames":[]}],"complete":true})"
        "\n");
}

}  // namespace
}  // namespace echion::report
