#include "cli/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "cli/quantities.h"
#include "console/message.h"

namespace echion::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

Options accepted(const std::vector<std::string>& arguments) {
    ParsedOptions parsed = parse_options(arguments);
    EXPECT_TRUE(parsed.options.has_value()) << parsed.error;
    return parsed.options.value_or(Options{});
}

TEST(Options, HaveDefaults) {
    const Options options = accepted({"python"});
    EXPECT_EQ(options.interval_ns, 1'000'000U);
    EXPECT_EQ(options.output, "%(pid).echion");
    EXPECT_EQ(options.max_frames, 2048U);
    EXPECT_FALSE(options.exposure_ns);
    EXPECT_FALSE(options.cpu || options.memory || options.native || options.stealth ||
                 options.verbose || options.json || options.doctor || options.allow_seccomp);
    EXPECT_THAT(options.command, ElementsAre("python"));
}

TEST(Options, NameTheEngine) {
    EXPECT_EQ(accepted({"cmd"}).engine, nullptr);
    EXPECT_EQ(accepted({"-c", "--engine", "perf", "cmd"}).engine->name, "perf");
    EXPECT_EQ(accepted({"--engine", "clock", "cmd"}).engine, &engine::own_clock());
    EXPECT_EQ(parse_options({"--engine", "perf", "cmd"}).exit_status, 2) << "wall time has none";
    EXPECT_EQ(parse_options({"--engine", "sundial", "cmd"}).exit_status, 2);
}

TEST(Options, TheFormatIsNamedOrTheEndOfTheFileTells) {
    using output::Format;
    EXPECT_EQ(accepted({"cmd"}).format, Format::kAustin);
    EXPECT_EQ(accepted({"-o", "out.austin", "cmd"}).format, Format::kAustin);
    EXPECT_EQ(accepted({"-o", "out.mojo", "cmd"}).format, Format::kMojo);
    EXPECT_EQ(accepted({"-o", "%(pid).pb.gz", "cmd"}).format, Format::kPprof);
    EXPECT_EQ(accepted({"-o", "out.pprof", "cmd"}).format, Format::kPprof);
    EXPECT_EQ(accepted({"-o", "out.pb", "cmd"}).format, Format::kAustin);
    EXPECT_EQ(accepted({"--format", "mojo", "-o", "-", "cmd"}).format, Format::kMojo);
    EXPECT_EQ(accepted({"--format", "austin", "-o", "out.pprof", "cmd"}).format, Format::kAustin);
    const ParsedOptions refused = parse_options({"--format", "svg", "cmd"});
    EXPECT_EQ(refused.exit_status, 2);
    EXPECT_EQ(refused.error,
              "echion: --format svg: expected austin, mojo or pprof (echion --help shows how)\n");
}

TEST(Options, HaveShortAndLongForms) {
    for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
             {"-c", "-n", "-s", "-v", "-i", "200", "-o", "f", "-x", "3", "cmd"},
             {"-cnsv", "-i200", "-of", "-x3", "cmd"},
             {"-cnsvi", "200", "-o", "f", "-x", "3", "cmd"},
             {"--cpu", "--native", "--stealth", "--verbose", "--interval", "200", "--output", "f",
              "--exposure", "3", "cmd"},
             {"--cpu", "--native", "--stealth", "--verbose", "--interval=200", "--output=f",
              "--exposure=3", "cmd"}}) {
        const Options options = accepted(arguments);
        EXPECT_TRUE(options.cpu && options.native && options.stealth && options.verbose);
        EXPECT_EQ(options.interval_ns, 200'000U);
        EXPECT_EQ(options.output, "f");
        EXPECT_EQ(options.exposure_ns, 3'000'000'000U);
        EXPECT_THAT(options.command, ElementsAre("cmd"));
    }
    EXPECT_TRUE(accepted({"--memory", "cmd"}).memory);
    EXPECT_TRUE(accepted({"-m", "cmd"}).memory);
    EXPECT_EQ(accepted({"--pid", "12"}).attach_pid, 12);
    EXPECT_EQ(accepted({"-p12"}).attach_pid, 12);
    EXPECT_TRUE(accepted({"--allow-seccomp", "-p", "12"}).allow_seccomp);
    EXPECT_EQ(accepted({"--where", "12"}).where_pid, 12);
    EXPECT_EQ(accepted({"-w", "12"}).where_pid, 12);
    EXPECT_EQ(accepted({"-x", "30", "-w", "12"}).exposure_ns, 30'000'000'000U);
    EXPECT_TRUE(accepted({"--json", "-w", "12"}).json);
    EXPECT_EQ(accepted({"--max-frames", "10", "cmd"}).max_frames, 10U);
    EXPECT_EQ(accepted({"cmd"}).tasks, control::TaskMode::kAll);
    EXPECT_EQ(accepted({"--tasks", "all", "cmd"}).tasks, control::TaskMode::kAll);
    EXPECT_EQ(accepted({"--tasks", "running", "cmd"}).tasks, control::TaskMode::kRunning);
    EXPECT_EQ(accepted({"--tasks=none", "-p", "1"}).tasks, control::TaskMode::kNone);
    EXPECT_TRUE(accepted({"--doctor"}).doctor);
}

TEST(Options, EndWhereTheCommandBegins) {
    EXPECT_THAT(accepted({"-c", "python", "-c", "print(1)", "--help", "-o", "x"}).command,
                ElementsAre("python", "-c", "print(1)", "--help", "-o", "x"));
    EXPECT_THAT(accepted({"-c", "--", "-odd-name", "--", "-i"}).command,
                ElementsAre("-odd-name", "--", "-i"));
    EXPECT_THAT(accepted({"python", "--", "x"}).command, ElementsAre("python", "--", "x"));
    EXPECT_THAT(accepted({"-o", "./-", "cmd"}).command, ElementsAre("cmd"));
    EXPECT_EQ(accepted({"-o", "-", "-p", "12"}).output, "-");
    EXPECT_EQ(accepted({"-o", "--", "cmd"}).output, "--");
    EXPECT_EQ(accepted({"-o", "-c", "cmd"}).output, "-c");
}

TEST(Options, ShowHelpAndVersion) {
    for (const char* flag : {"-h", "--help"}) {
        const ParsedOptions parsed = parse_options({"-c", flag});
        EXPECT_FALSE(parsed.options);
        EXPECT_EQ(parsed.exit_status, 0);
        EXPECT_THAT(parsed.output, HasSubstr("--interval"));
        EXPECT_THAT(parsed.error, IsEmpty());
    }
    for (const char* flag : {"-V", "--version"}) {
        EXPECT_EQ(parse_options({flag}).output, "echion " ECHION_VERSION "\n");
    }
}

TEST(Options, HelpNamesEveryOption) {
    const std::string help = parse_options({"--help"}).output;
    for (const char* flag : {"-h",
                             "-i",
                             "-c",
                             "-x",
                             "-m",
                             "-n",
                             "-o",
                             "-p",
                             "-s",
                             "-w",
                             "-v",
                             "-V",
                             "--help",
                             "--interval",
                             "--cpu",
                             "--exposure",
                             "--memory",
                             "--native",
                             "--output",
                             "--pid",
                             "--stealth",
                             "--where",
                             "--verbose",
                             "--version",
                             "--json",
                             "--max-frames",
                             "--tasks",
                             "--doctor",
                             "--allow-seccomp"}) {
        EXPECT_THAT(help, HasSubstr(flag));
    }
}

TEST(Options, NoneAtAllShowHelpAsAnError) {
    const ParsedOptions parsed = parse_options({});
    EXPECT_EQ(parsed.exit_status, kExitUsage);
    EXPECT_THAT(parsed.error, HasSubstr("Usage:"));
}

TEST(Options, ComplaintsAreOneLineOfPrintableText) {
    const std::string error = parse_options({"-i", "5\n0\x1b[31m\xc3\xa4", "cmd"}).error;
    EXPECT_EQ(error.find('\n'), error.size() - 1);
    EXPECT_THAT(error, HasSubstr("-i 5\\x0a0\\x1b[31m\xc3\xa4:"));
    EXPECT_THAT(parse_options({"--no\nsuch", "cmd"}).error, HasSubstr("--no\\x0asuch"));
}

TEST(Printable, KeepsValidUtf8AndEscapesTheRest) {
    EXPECT_EQ(make_printable("plain, \\ and ' too"), "plain, \\ and ' too");
    EXPECT_EQ(make_printable("\u00e4/\u20ac/\U0001F434"), "\u00e4/\u20ac/\U0001F434");
    EXPECT_EQ(make_printable("\x1b[2J\r\n\t\x7f"), "\\x1b[2J\\x0d\\x0a\\x09\\x7f");
    EXPECT_EQ(make_printable("\xc2\x9b"), "\\xc2\\x9b") << "CSI in one character";
    EXPECT_EQ(make_printable("\u202e"), "\\xe2\\x80\\xae") << "writes backwards";
    EXPECT_EQ(make_printable("\xe4"), "\\xe4");
    EXPECT_EQ(make_printable("\xe2\x82"), "\\xe2\\x82") << "cut off";
    EXPECT_EQ(make_printable("\xc0\xaf"), "\\xc0\\xaf") << "longer than need be";
    EXPECT_EQ(make_printable("\xed\xa0\x80"), "\\xed\\xa0\\x80") << "a surrogate";
    EXPECT_EQ(make_printable("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");
    EXPECT_EQ(make_printable(make_printable("\x01")), "\\x01");
    EXPECT_EQ(quote(""), "''");
}

class Refused : public testing::TestWithParam<std::vector<std::string>> {};

TEST_P(Refused, WithOneLineAndStatus2) {
    const ParsedOptions parsed = parse_options(GetParam());
    EXPECT_FALSE(parsed.options);
    EXPECT_EQ(parsed.exit_status, 2);
    EXPECT_THAT(parsed.output, IsEmpty());
    EXPECT_TRUE(parsed.error.starts_with("echion: ")) << parsed.error;
    EXPECT_EQ(parsed.error.find('\n'), parsed.error.size() - 1) << parsed.error;
}

INSTANTIATE_TEST_SUITE_P(
    Intervals, Refused,
    testing::Values(
        std::vector<std::string>{"-i", "0", "cmd"}, std::vector<std::string>{"-i", "-5", "cmd"},
        std::vector<std::string>{"-i", "", "cmd"}, std::vector<std::string>{"-i", "abc", "cmd"},
        std::vector<std::string>{"-i", "5x", "cmd"}, std::vector<std::string>{"-i", "5 ms", "cmd"},
        std::vector<std::string>{"-i", "0x10", "cmd"}, std::vector<std::string>{"-i", "1e3", "cmd"},
        std::vector<std::string>{"-i", "nan", "cmd"},
        std::vector<std::string>{"-i", "1.2.3", "cmd"}, std::vector<std::string>{"-i", ".", "cmd"},
        std::vector<std::string>{"-i", "0.5us", "cmd"},
        std::vector<std::string>{"-i", "3601s", "cmd"},
        std::vector<std::string>{"-i", "99999999999999999999999", "cmd"},
        std::vector<std::string>{"-i"}));

INSTANTIATE_TEST_SUITE_P(
    Values, Refused,
    testing::Values(
        std::vector<std::string>{"-x", "0", "cmd"}, std::vector<std::string>{"-x", "-1", "cmd"},
        std::vector<std::string>{"-x", "soon", "cmd"}, std::vector<std::string>{"-x", "1e9", "cmd"},
        std::vector<std::string>{"-x", "99999999999", "cmd"}, std::vector<std::string>{"-p", "0"},
        std::vector<std::string>{"-p", "-1"}, std::vector<std::string>{"-p", "1x"},
        std::vector<std::string>{"-p", "self"}, std::vector<std::string>{"-p", "99999999999"},
        std::vector<std::string>{"-w", "0"}, std::vector<std::string>{"-w"},
        std::vector<std::string>{"-o", "", "cmd"},
        std::vector<std::string>{"--max-frames", "0", "cmd"},
        std::vector<std::string>{"--tasks", "some", "cmd"},
        std::vector<std::string>{"--tasks", "all", "-w", "1"},
        std::vector<std::string>{"--max-frames", "1048577", "cmd"},
        std::vector<std::string>{"--unknown", "cmd"}, std::vector<std::string>{"-q", "cmd"}));

INSTANTIATE_TEST_SUITE_P(
    Contradictions, Refused,
    testing::Values(
        std::vector<std::string>{"-c"}, std::vector<std::string>{"--"},
        std::vector<std::string>{"-p", "1", "cmd"}, std::vector<std::string>{"-w", "1", "cmd"},
        std::vector<std::string>{"-p", "1", "-w", "1"}, std::vector<std::string>{"-c", "-m", "cmd"},
        std::vector<std::string>{"-w", "1", "-m"}, std::vector<std::string>{"-w", "1", "-c"},
        std::vector<std::string>{"-w", "1", "-s"}, std::vector<std::string>{"-w", "1", "-o", "f"},
        std::vector<std::string>{"--json", "cmd"}, std::vector<std::string>{"--json", "-p", "1"},
        std::vector<std::string>{"--allow-seccomp", "cmd"},
        std::vector<std::string>{"--doctor", "cmd"},
        std::vector<std::string>{"--doctor", "-p", "1"},
        std::vector<std::string>{"--cpu=false", "cmd"}, std::vector<std::string>{"--cpu=", "cmd"},
        std::vector<std::string>{"--no-follow=true", "cmd"}, std::vector<std::string>{"--help=1"}));

INSTANTIATE_TEST_SUITE_P(
    WithoutEffect, Refused,
    testing::Values(
        std::vector<std::string>{"-w", "1", "-i", "500"},
        std::vector<std::string>{"-w", "1", "--engine", "bpf"},
        std::vector<std::string>{"-w", "1", "--format", "mojo"},
        std::vector<std::string>{"-w", "1", "--engine", "auto"},
        std::vector<std::string>{"-w", "1", "--no-follow"},
        std::vector<std::string>{"-w", "1", "--allow-seccomp"},
        std::vector<std::string>{"--doctor", "--allow-seccomp"},
        std::vector<std::string>{"-w", "1", "-n"},
        std::vector<std::string>{"-w", "1", "-x", "1", "--no-follow"},
        std::vector<std::string>{"--doctor", "-i", "5"}, std::vector<std::string>{"--doctor", "-s"},
        std::vector<std::string>{"--doctor", "-o", "f"}, std::vector<std::string>{"--doctor", "-c"},
        std::vector<std::string>{"--doctor", "-x", "1"}, std::vector<std::string>{"--doctor", "-n"},
        std::vector<std::string>{"--doctor", "-m"}, std::vector<std::string>{"--doctor", "--json"},
        std::vector<std::string>{"--doctor", "--max-frames", "5"},
        std::vector<std::string>{"--doctor", "--engine", "clock"},
        std::vector<std::string>{"--doctor", "--format", "pprof"},
        std::vector<std::string>{"--doctor", "--no-follow"}));

TEST(Options, TakeTheTimesThatTheComplaintsName) {
    EXPECT_THAT(parse_options({"-i", "2h", "cmd"}).error, HasSubstr("between 1us and 1h"));
    EXPECT_EQ(accepted({"-i", "1us", "cmd"}).interval_ns, kMinIntervalNs);
    EXPECT_EQ(accepted({"-i", "1h", "cmd"}).interval_ns, kMaxIntervalNs);
    EXPECT_THAT(parse_options({"-x", "99999999999", "cmd"}).error, HasSubstr("up to 366d"));
    EXPECT_THAT(parse_options({"-x", "367d", "cmd"}).error, HasSubstr("up to 366d"));
    EXPECT_EQ(accepted({"-x", "366d", "cmd"}).exposure_ns, kMaxExposureNs);
    EXPECT_EQ(accepted({"-x", "8784h", "cmd"}).exposure_ns, kMaxExposureNs);
}

TEST(Options, WithEffectInWhereModeAreTaken) {
    EXPECT_TRUE(accepted({"-w", "1", "-v", "--max-frames", "9", "--json"}).where_pid);
    EXPECT_EQ(accepted({"-w", "1", "-x", "1", "-i", "5ms", "-c"}).interval_ns, 5'000'000U);
    EXPECT_TRUE(accepted({"--doctor", "-v"}).doctor);
}

TEST(Duration, TakesUnits) {
    EXPECT_EQ(parse_duration_ns("500", 1000), 500'000U);
    EXPECT_EQ(parse_duration_ns("500us", 1), 500'000U);
    EXPECT_EQ(parse_duration_ns("500µs", 1), 500'000U);
    EXPECT_EQ(parse_duration_ns("1.5ms", 1), 1'500'000U);
    EXPECT_EQ(parse_duration_ns("1s", 1), 1'000'000'000U);
    EXPECT_EQ(parse_duration_ns(".5", 1'000'000'000), 500'000'000U);
    EXPECT_EQ(parse_duration_ns("0", 1), 0U);
    EXPECT_FALSE(parse_duration_ns("", 1));
    EXPECT_FALSE(parse_duration_ns("s", 1));
    EXPECT_FALSE(parse_duration_ns("+5", 1));
    EXPECT_EQ(parse_duration_ns("5m", 1), 300'000'000'000U);
    EXPECT_EQ(parse_duration_ns("5min", 1), 300'000'000'000U);
    EXPECT_EQ(parse_duration_ns("1.5h", 1), 5'400'000'000'000U);
    EXPECT_FALSE(parse_duration_ns("5w", 1));
    EXPECT_EQ(parse_duration_ns("2d", 1), 172'800'000'000'000U);
    EXPECT_FALSE(parse_duration_ns("5M", 1));
    EXPECT_FALSE(parse_duration_ns("99999999999999999999s", 1));
}

TEST(OutputName, ExpandsTheProcessId) {
    EXPECT_EQ(expand_output("%(pid).echion", 42), "42.echion");
    EXPECT_EQ(expand_output("%%(pid).echion", 42), "42.echion");
    EXPECT_EQ(expand_output("a%(pid)b%%(pid)c", 7), "a7b7c");
    EXPECT_EQ(expand_output("%(pi)%d%%%", 7), "%(pi)%d%%%");
    EXPECT_EQ(expand_output("plain", 7), "plain");
}

TEST(ParseSize, TakesPowersOf1024) {
    const std::pair<const char*, std::uint64_t> good[] = {{"0", 0},
                                                          {"4096", 4096},
                                                          {"10B", 10},
                                                          {"64K", 65536},
                                                          {"1.5M", 1572864},
                                                          {"2G", 2147483648U},
                                                          {"2GB", 2147483648U},
                                                          {"2GiB", 2147483648U},
                                                          {"1T", 1ULL << 40U},
                                                          {"20k", 20480},
                                                          {"2gib", 2147483648U},
                                                          {"1.5mb", 1572864},
                                                          {"10b", 10}};
    for (const auto& [text, bytes] : good) {
        EXPECT_EQ(parse_size_bytes(text), bytes) << text;
    }
    for (const char* bad :
         {"", "K", "-1", "1x", "1ib", "1iB", "1 G", "1e3", "9999999T", "G1", "1GG"}) {
        EXPECT_FALSE(parse_size_bytes(bad)) << bad;
    }
}

TEST(ParseSize, IsToldInTheSameUnits) {
    EXPECT_EQ(format_size(100), "100 bytes");
    EXPECT_EQ(format_size(1536), "1.5 KiB");
    EXPECT_EQ(format_size(std::uint64_t{8} << 30), "8 GiB");
}

TEST(Bounds, HaveDefaultsAndLeastValues) {
    const auto options = parse_options({"--max-output", "20M", "--max-memory=64M", "python"});
    ASSERT_TRUE(options.options);
    EXPECT_EQ(options.options->max_output_bytes, 20U << 20U);
    EXPECT_EQ(options.options->max_memory_bytes, 64U << 20U);
    EXPECT_TRUE(options.options->output_is_default);
    EXPECT_FALSE(parse_options({"-o", "x", "python"}).options->output_is_default);
    const auto none = parse_options({"--max-output", "none", "python"});
    ASSERT_TRUE(none.options);
    EXPECT_GT(none.options->max_output_bytes, std::uint64_t{1} << 60);
    for (const auto& [option, value] :
         {std::pair{"--max-output", "1K"}, {"--max-output", "much"}, {"--max-memory", "none"}}) {
        EXPECT_EQ(parse_options({option, value, "python"}).exit_status, kExitUsage);
    }
    EXPECT_EQ(parse_options({"--max-output", "1G", "-w", "1"}).exit_status, kExitUsage);
    for (const char* option : {"--max-output", "--max-memory"}) {
        EXPECT_THAT(parse_options({option, "20X", "python"}).error, HasSubstr("K, M, G or T"));
        EXPECT_THAT(parse_options({option, "1k", "python"}).error, HasSubstr("at the least"));
    }
}

}  // namespace
}  // namespace echion::cli
