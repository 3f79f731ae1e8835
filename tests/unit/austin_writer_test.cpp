#include "output/austin_writer.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

#include "output/text.h"

namespace echion::output {
namespace {

using model::CodeKind;
using model::CodeView;
using model::Frame;
using model::StackMarks;

class Austin : public testing::Test {
  protected:
    Austin() {
        folder = testing::TempDir() + "echion-test-XXXXXX";
        EXPECT_NE(mkdtemp(folder.data()), nullptr);
        path = folder + "/out.austin";
        file.emplace(OutputFile::open(path).value());
        writer.emplace(*file);
        process = writer->add_process(42);
        process->thread(0, 0, 0, "MainThread");
    }
    ~Austin() override { std::filesystem::remove_all(folder); }

    std::string read(const std::string& from) {
        std::stringstream all;
        all << std::ifstream(from).rdbuf();
        return all.str();
    }
    /// All that was written, without the empty header's line.
    std::string text() {
        EXPECT_TRUE(file->close());
        const std::string all = read(path);
        return all.empty() ? all : all.substr(1);
    }
    static Frame code(std::uint64_t id, std::string_view name, std::uint32_t line,
                      std::string_view file_name = "a.py", std::string_view qualified = {}) {
        return {id, CodeView{CodeKind::kLocations, 1, name, qualified, file_name, {}}, line};
    }
    static Frame label(std::uint64_t id, std::string_view name) {
        return {id, CodeView{CodeKind::kLabel, 0, name, {}, {}, {}}, 0};
    }
    void stack(std::size_t kept, std::vector<Frame> frames, StackMarks marks = {}) {
        process->stack(0, marks, kept, frames);
    }

    std::string folder;
    std::string path;
    std::optional<OutputFile> file;
    std::optional<AustinWriter> writer;
    std::unique_ptr<model::StackSink> process;
};

TEST_F(Austin, ChangesAHeaderUntilTheFirstSample) {
    writer->add_header("engine", "nanosleep");
    writer->add_header("python", "3.12.1");
    writer->set_header("engine", "bpf");
    stack(0, {code(1, "f", 1)});
    process->sample(0, 1000, {});
    writer->set_header("engine", "perf");
    ASSERT_TRUE(file->close());
    EXPECT_EQ(read(path), "# engine: bpf\n# python: 3.12.1 \n\nP42;T0:MainThread;a.py:f:1 1000\n");
}

TEST_F(Austin, WritesHeaderSamplesAndFooterApart) {
    writer->add_header("mode", "wall");
    writer->add_header("interval", "1000");
    writer->add_header("python", "3.12.1");
    writer->add_header("python", "3.8.0");
    stack(0,
          {code(1, "<module>", 3, "/srv/app.py"), code(2, "sell", 10, "/srv/app.py", "Shop.sell")});
    process->sample(0, 1000, {});
    writer->add_header("late", "yes");
    writer->add_footer("duration", "2000");
    writer->add_footer("note", "of 3 threads");
    writer->add_footer("note", "of 3");
    ASSERT_TRUE(file->close());
    EXPECT_EQ(read(path),
              "# mode: wall\n# interval: 1000 \n# python: 3.12.1 \n\n"
              "P42;T0:MainThread;/srv/app.py:<module>:3;/srv/app.py:Shop.sell:10 1000\n"
              "\n# duration: 2000 \n# note: of 3 threads\n# note: of 3 \n");
}

TEST_F(Austin, RewritesWhatHasChanged) {
    stack(0, {code(1, "a", 1), code(2, "b", 2), code(3, "c", 3)});
    process->sample(0, 1, {});
    stack(1, {code(4, "d", 4)});
    process->sample(0, 2, {});
    stack(0, {});
    process->sample(0, -3, {});
    stack(0, {code(2, "b", 2)});
    process->sample(0, 4, {});
    EXPECT_EQ(text(),
              "P42;T0:MainThread;a.py:a:1;a.py:b:2;a.py:c:3 1\n"
              "P42;T0:MainThread;a.py:a:1;a.py:d:4 2\n"
              "P42;T0:MainThread -3\n"
              "P42;T0:MainThread;a.py:b:2 4\n");
}

TEST_F(Austin, PutsMarksWhereTheyBelong) {
    stack(0, {code(1, "a", 1), label(2, "Task-1"), code(3, "c", 3)});
    stack(3, {}, {.truncated = true, .invalid = true, .in_gc = true});
    process->sample(0, 1, {});
    stack(2, {}, {.invalid = true});
    process->sample(0, 2, {});
    stack(2, {}, {});
    process->sample(0, 3, {});
    EXPECT_EQ(text(),
              "P42;T0:MainThread;:TRUNCATED:0;:INVALID:0;a.py:a:1;:Task-1:0;a.py:c:3;:GC:0 1\n"
              "P42;T0:MainThread;:INVALID:0;a.py:a:1;:Task-1:0 2\n"
              "P42;T0:MainThread;a.py:a:1;:Task-1:0 3\n");
}

TEST_F(Austin, ShowsTimeThatNobodyLookedAt) {
    stack(0, {code(1, "a", 1)});
    process->missed(0, 500, {});
    process->sample(0, 1, {});
    process->missed(7, 1, {});  // no such thread
    process->thread(1, 0, 77, "");
    process->missed(1, 2, {});
    process->thread(1, 0, 77, "late");
    EXPECT_EQ(text(),
              "P42;T0:MainThread;:MISSED:0 500\nP42;T0:MainThread;a.py:a:1 1\n"
              "P42;T0:late;:MISSED:0 2\n");
}

TEST_F(Austin, KeepsTheStackOfARenamedThread) {
    stack(0, {code(1, "a", 1)}, {.invalid = true});
    process->thread(0, 7, 0, "a much longer name than before");
    stack(1, {code(2, "b", 2)}, {.invalid = true});
    process->sample(0, 1, {});
    process->thread(0, 7, 0, "x");
    stack(1, {});
    process->sample(0, 2, {});
    EXPECT_EQ(text(),
              "P42;T7:a much longer name than before;:INVALID:0;a.py:a:1;a.py:b:2 1\n"
              "P42;T7:x;a.py:a:1 2\n");
}

TEST_F(Austin, WritesAllOfAThreadUnderTheNameThatItGets) {
    process->thread(1, 0, 77, "");
    process->stack(1, {}, 0, std::vector<Frame>{code(1, "early", 1)});
    process->sample(1, 1, {});
    stack(0, {code(2, "other", 2)});
    process->sample(0, 2, {});
    process->thread(1, 0, 77, "worker");
    process->sample(1, 3, {});
    EXPECT_EQ(text(),
              "P42;T0:MainThread;a.py:other:2 2\n"
              "P42;T0:worker;a.py:early:1 1\nP42;T0:worker;a.py:early:1 3\n");
}

TEST_F(Austin, AThreadThatGetsNoNameHasItsNumber) {
    process->thread(1, 0, 77, "");
    process->sample(1, 1, {});
    process->thread_ended(1);
    process->thread(2, 0, 0, "");
    process->sample(2, 2, {});
    process->thread_ended(2);
    EXPECT_EQ(text(), "P42;T0:thread-77 1\nP42;T0:<unknown> 2\n");
}

TEST_F(Austin, WaitsForANameOnlySoLong) {
    process->thread(1, 0, 77, "");
    process->stack(1, {}, 0, std::vector<Frame>{code(1, std::string(4000, 'n'), 1)});
    for (int i = 0; i < 500; ++i) {
        process->sample(1, 1, {});
    }
    EXPECT_GE(writer->records(), 400U);
    EXPECT_LT(process->memory_bytes(), std::size_t{1} << 20);
    process->thread(1, 0, 77, "late");
    process->sample(1, 1, {});
    process->thread_ended(1);
    EXPECT_EQ(writer->records(), 501U);
}

TEST_F(Austin, WaitsForANameForSomeCheckpointsOnly) {
    process->thread(1, 0, 77, "");
    process->sample(1, 1, {});
    process->checkpoint();
    process->checkpoint();
    EXPECT_EQ(writer->records(), 0U);
    process->checkpoint();
    EXPECT_EQ(writer->records(), 1U);
    process->sample(1, 2, {});
    EXPECT_EQ(text(), "P42;T0:thread-77 1\nP42;T0:thread-77 2\n");
}

TEST_F(Austin, KeepsProcessesAndThreadsApart) {
    auto other = writer->add_process(43);
    other->thread(0, 1, 0, "MainThread");
    process->thread(5, 0, 0, "worker");
    stack(0, {code(1, "a", 1)});
    process->stack(5, {}, 0, std::vector<Frame>{code(2, "b", 2)});
    other->stack(0, {}, 0, std::vector<Frame>{code(1, "other", 9)});
    process->sample(5, 1, {});
    process->sample(0, 2, {});
    other->sample(0, 3, {});
    process->thread_ended(5);
    process->thread(5, 0, 0, "new");
    process->sample(5, 4, {});
    EXPECT_EQ(text(),
              "P42;T0:worker;a.py:b:2 1\nP42;T0:MainThread;a.py:a:1 2\n"
              "P43;T1:MainThread;a.py:other:9 3\nP42;T0:new 4\n");
}

TEST_F(Austin, HidesItsOwnSyntaxInNames) {
    process->thread(0, 0, 0, "a;b:c\nd\r");
    stack(0, {code(1, "f;g:h\ti", 1, "C:\\x;y z.py"), label(2, "t;a:sk"), code(3, "", 4, ""),
              code(5, "\u2028\u0085\x7f", 6)});
    process->sample(0, 1, {});
    EXPECT_EQ(text(),
              "P42;T0:a；b：c␊d␍;C:\\x；y z.py:f；g：h␉i:1;:t；a：sk:0;:<unknown>:4;"
              "a.py:\uFFFD\uFFFD␡:6 1\n");
}

TEST_F(Austin, LeavesNoPathStandingFree) {
    process->thread(0, 0, 0, "/tmp/evil.so");
    stack(0, {code(1, "/tmp/f /tmp/g", 1, "/a b /tmp/evil.so:/tmp/x"), label(2, "GET /x a/b")});
    process->sample(0, 1, {});
    EXPECT_EQ(text(),
              "P42;T0:／tmp/evil.so;/a b ／tmp/evil.so:／tmp/x:／tmp/f ／tmp/g:1;"
              ":GET ／x a/b:0 1\n");
}

TEST_F(Austin, TurnsNoDirectionOfWriting) {
    process->thread(0, 0, 0, "a\u202eb\u2066c\u2069\u2065\u2070");
    process->sample(0, 1, {});
    EXPECT_EQ(text(), "P42;T0:a\uFFFDb\uFFFDc\uFFFD\u2065\u2070 1\n");
}

TEST_F(Austin, LeavesOrdinaryNamesAlone) {
    process->thread(0, 0, 0, "Ünïcödé 日本 🐴 3");
    stack(0, {code(1, "<lambda>", 1, "/a b/â€.py", "C.<locals>.<lambda>")});
    process->sample(0, 1, {});
    EXPECT_EQ(text(), "P42;T0:Ünïcödé 日本 🐴 3;/a b/â€.py:C.<locals>.<lambda>:1 1\n");
}

TEST_F(Austin, HidesANumberAtTheEndOfAFramelessLine) {
    process->thread(0, 0, 0, "Worker 3");
    process->sample(0, 10, {});
    stack(0, {code(1, "f", 1)});
    process->sample(0, 11, {});
    EXPECT_EQ(text(), "P42;T0:Worker_3 10\nP42;T0:Worker 3;a.py:f:1 11\n");
}

TEST_F(Austin, CutsALineThatGetsTooLong) {
    const std::string name(4000, 'n');
    std::vector<Frame> frames;
    for (std::uint64_t i = 0; i < 20'000; ++i) {
        frames.push_back(code(1, name, 1));
    }
    stack(0, frames);
    process->sample(0, 1, {});
    stack(2, {code(2, "leaf", 2)});
    process->sample(0, 2, {});
    const std::string all = text();
    const std::size_t first = all.find('\n');
    EXPECT_LT(first, std::size_t{33} << 20);
    EXPECT_GT(first, std::size_t{31} << 20);
    EXPECT_TRUE(all.substr(0, first).ends_with(";:TRUNCATED:0 1"));
    EXPECT_TRUE(all.ends_with("n:1;a.py:leaf:2 2\n"));
}

TEST_F(Austin, EndsAtAWholeLineWhenItsOutputIsFull) {
    AustinWriter bounded(*file, {.output_bytes = 60});
    process = bounded.add_process(7);
    process->thread(0, 0, 0, "main");
    stack(0, {code(1, "f", 1)});
    process->sample(0, 11, {});
    process->sample(0, 12, {});
    EXPECT_FALSE(bounded.is_full());
    process->sample(0, 13, {});
    process->thread(0, 0, 0, "m");
    stack(0, {});
    process->sample(0, -14, {});
    EXPECT_TRUE(bounded.is_full());
    EXPECT_EQ(bounded.records_cut(), 2U);
    EXPECT_EQ(bounded.value_cut(), 27U);
    EXPECT_EQ(text(), "P7;T0:main;a.py:f:1 11\nP7;T0:main;a.py:f:1 12\n");
}

TEST_F(Austin, GivesBackWhatALongLineTook) {
    const std::string name(4000, 'n');
    std::vector<Frame> frames(5000, code(1, name, 1));
    for (std::uint32_t thread = 0; thread < 20; ++thread) {
        process->thread(thread, 0, 0, "t");
        process->stack(thread, {}, 0, frames);
        process->stack(thread, {}, 0, {});
    }
    EXPECT_LT(process->memory_bytes(), std::size_t{4} << 20);
}

TEST_F(Austin, LosesNoCountOverThreadsThatComeAndGo) {
    for (std::uint32_t round = 0; round < 100; ++round) {
        process->thread(round % 7, 0, 0, "t");
        process->stack(round % 7, {}, 0, std::vector<Frame>{code(1, "f", 1)});
        process->sample(round % 7, 1, {});
        process->thread(round % 7, 0, 0, std::string(round, 'n'));
        process->thread_ended(round % 7);
    }
    EXPECT_EQ(writer->records_shortened(), 0U);
    EXPECT_LT(process->memory_bytes(), 10'000U);
}

TEST_F(Austin, BoundsTheLinesOfAllThreads) {
    AustinWriter bounded(*file, {.lines_bytes = 100'000});
    process = bounded.add_process(7);
    const std::string name(4000, 'n');
    const std::vector<Frame> frames(10, code(1, name, 1));
    for (std::uint32_t thread = 0; thread < 20; ++thread) {
        process->thread(thread, 0, 0, "t");
        process->stack(thread, {}, 0, frames);
        process->sample(thread, 1, {});
    }
    EXPECT_LT(process->memory_bytes(), 250'000U);
    EXPECT_GE(bounded.records_shortened(), 17U);
}

TEST(EndsInNumber, SeesWhatFlamegraphWouldTakeForAMetric) {
    EXPECT_TRUE(ends_in_number("Worker 3"));
    EXPECT_TRUE(ends_in_number("Worker 3.5"));
    EXPECT_FALSE(ends_in_number("Worker-3"));
    EXPECT_FALSE(ends_in_number("Worker 3a"));
    EXPECT_FALSE(ends_in_number("Worker "));
    EXPECT_FALSE(ends_in_number("3"));
    EXPECT_FALSE(ends_in_number(""));
}

class File : public Austin {};

TEST_F(File, KeepsItsContentUntilSomethingIsWritten) {
    const std::string other = folder + "/old";
    std::ofstream(other) << "precious, and longer than what comes";
    auto unused = OutputFile::open(other).value();
    unused.discard();
    EXPECT_EQ(read(other), "precious, and longer than what comes");
    auto used = OutputFile::open(other).value();
    used.append("new");
    EXPECT_TRUE(used.close());
    EXPECT_EQ(read(other), "new");
}

TEST_F(File, LeavesNothingWhenNothingWasWritten) {
    file->discard();
    EXPECT_FALSE(std::filesystem::exists(path));
}

TEST_F(File, ThatSomebodyElsePutInItsPlaceIsNotRemoved) {
    std::filesystem::remove(path);
    std::ofstream(path) << "theirs";
    file->discard();
    EXPECT_EQ(read(path), "theirs");
}

TEST_F(File, InAMissingFolderIsAnError) {
    const auto opened = OutputFile::open(folder + "/no/such/file");
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().system_errno, ENOENT);
}

TEST_F(File, OnAFullDeviceFailsOnceAndSwallowsTheRest) {
    auto full = OutputFile::open("/dev/full").value();
    for (int i = 0; i < 100; ++i) {
        full.append(std::string(100'000, 'x'));
    }
    const auto status = full.close();
    EXPECT_TRUE(full.has_failed());
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().system_errno, ENOSPC);
}

TEST_F(File, IsWrittenInWholeLines) {
    std::string line(1000, 'x');
    line.back() = '\n';
    // A buffer that is full in the middle of a line keeps that line's begin.
    auto output = OutputFile::open(path + ".long").value();
    for (std::size_t i = 0; i < 2000; ++i) {
        output.append(line);
    }
    while (output.waiting_bytes() != 0) {
        usleep(1000);
    }
    const std::string written = read(path + ".long");
    ASSERT_FALSE(written.empty());
    EXPECT_EQ(written.size() % line.size(), 0U);
    EXPECT_TRUE(output.close());
    EXPECT_EQ(read(path + ".long").size(), 2000 * line.size());
}

TEST_F(File, IsWrittenUpToAMark) {
    const std::string record(1000, '\n');  // no line ends a record
    auto output = OutputFile::open(path + ".marked").value();
    output.use_marks();
    output.append("begun");
    output.mark_end();
    for (std::size_t i = 0; i < 2000; ++i) {
        output.append(record);
        output.mark_end();
    }
    output.append("not whole");
    output.flush();
    while (output.waiting_bytes() != 0) {
        usleep(1000);
    }
    EXPECT_EQ((read(path + ".marked").size() - 5) % record.size(), 0U);
    output.flush();
    while (output.waiting_bytes() != 0) {
        usleep(1000);
    }
    EXPECT_EQ(read(path + ".marked").size(), 5 + 2000 * record.size());
    EXPECT_TRUE(output.close());
    EXPECT_TRUE(read(path + ".marked").ends_with("\nnot whole"));
}

TEST_F(File, OfMarksEndsWithOneWhenWritingFails) {
    const rlimit before = [] {
        rlimit limit{};
        getrlimit(RLIMIT_FSIZE, &limit);
        return limit;
    }();
    auto output = OutputFile::open(path + ".marked").value();
    output.use_marks();
    signal(SIGXFSZ, SIG_IGN);
    const rlimit small{100'500, before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    for (int i = 0; i < 200; ++i) {
        output.append(std::string(999, '\n') + "r");
        output.mark_end();
    }
    const auto status = output.close();
    setrlimit(RLIMIT_FSIZE, &before);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().system_errno, EFBIG);
    const std::string written = read(path + ".marked");
    EXPECT_GT(written.size(), 90'000U);
    EXPECT_EQ(written.size() % 1000, 0U);
    EXPECT_EQ(output.kept_bytes(), written.size());
}

TEST_F(File, SharedWithACommandIsWrittenBehindIt) {
    const std::string shared = folder + "/shared";
    std::ofstream(shared) << "before\n";
    const UniqueFd before(fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3));
    const UniqueFd appended(open(shared.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC));
    dup2(appended.get(), STDOUT_FILENO);
    auto output = OutputFile::open("/dev/fd/1", NameOrigin::kUser, Sharing::kWithCommand);
    dup2(before.get(), STDOUT_FILENO);
    ASSERT_TRUE(output);
    EXPECT_EQ(output->path(), "standard output");
    output->append("profile\n");
    EXPECT_TRUE(output->close());
    EXPECT_EQ(read(shared), "before\n");
    std::ofstream(shared, std::ios::app) << "the command's\n";
    EXPECT_TRUE(output->deliver());
    EXPECT_EQ(read(shared), "before\nthe command's\nprofile\n");
}

TEST_F(File, KeepsNobodyWaitingForAPipe) {
    const std::string fifo = folder + "/fifo";
    ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
    const UniqueFd reader(open(fifo.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    auto output = OutputFile::open(fifo).value();
    const std::string part(1'000'000, 'x');
    for (int i = 0; i < 40; ++i) {
        output.append(part);
    }
    EXPECT_TRUE(output.is_behind());
    output.finish();
    EXPECT_FALSE(output.has_ended());
    output.give_up();
    EXPECT_TRUE(output.has_ended());
    const auto status = output.status();
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().kind, ErrorKind::kBoundExceeded);
    EXPECT_GT(output.left_bytes(), 38'000'000U);  // a pipe holds 1 MiB at most by default
}

TEST_F(File, TellsWhenAllIsWritten) {
    file->append("all");
    file->finish();
    pollfd ended{file->ended_fd(), POLLIN, 0};
    EXPECT_EQ(poll(&ended, 1, 60'000), 1);
    EXPECT_TRUE(file->status());
    EXPECT_EQ(read(path), "all");
}

TEST_F(File, RemovedMeanwhileIsAnError) {
    file->append("something");
    std::filesystem::remove(path);
    EXPECT_FALSE(file->close());
}

TEST_F(File, TakesTextsLongerThanItsBuffer) {
    const std::string large(3'000'000, 'y');
    file->append("a");
    file->append(large);
    file->append("b");
    EXPECT_TRUE(file->close());
    EXPECT_EQ(read(path), "a" + large + "b");
}

}  // namespace
}  // namespace echion::output
