// What --doctor and -v say of a machine, from facts alone.
#include "cli/doctor.h"

#include <errno.h>
#include <gmock/gmock.h>
#include <sys/wait.h>

namespace echion::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

engine::Privileges with(std::initializer_list<engine::Capability> capabilities) {
    engine::Privileges privileges;
    privileges.kernel_has_btf = true;
    privileges.kernel_release = "6.1.0";
    privileges.perf_max_rate = 100'000;
    privileges.bounding_capabilities = ~std::uint64_t{0};
    for (const engine::Capability capability : capabilities) {
        privileges.effective_capabilities |= std::uint64_t{1} << static_cast<int>(capability);
    }
    return privileges;
}

engine::Privileges without_any() { return with({}); }

engine::Privileges without_new_privileges() {
    engine::Privileges privileges = without_any();
    privileges.no_new_privileges = true;
    return privileges;
}

engine::Privileges out_of_reach() {
    engine::Privileges privileges = without_any();
    privileges.bounding_capabilities = 0;
    return privileges;
}

engine::Privileges in_user_namespace(std::initializer_list<engine::Capability> capabilities) {
    engine::Privileges privileges = with(capabilities);
    privileges.in_initial_user_namespace = false;
    return privileges;
}

TEST(Privileges, AreParsedFromStatus) {
    engine::Privileges privileges;
    engine::parse_status(
        "Name:\tcat\nCapInh:\t0000000000000000\nCapEff:\t000000c000080000\n"
        "CapBnd:\t000001ffffffffff\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n",
        privileges);
    EXPECT_TRUE(privileges.has(engine::Capability::kBpf));
    EXPECT_TRUE(privileges.has(engine::Capability::kPerfmon));
    EXPECT_TRUE(privileges.has(engine::Capability::kSysPtrace));
    EXPECT_FALSE(privileges.has(engine::Capability::kSysAdmin));
    EXPECT_TRUE(privileges.may_have(engine::Capability::kSysAdmin));
    EXPECT_TRUE(privileges.no_new_privileges);
    EXPECT_EQ(privileges.seccomp_mode, 2);
}

TEST(Privileges, SurviveAStatusThatIsNone) {
    engine::Privileges privileges;
    for (const char* text : {"", ":", "CapEff", "CapEff:", "CapEff:\n\nSeccomp:\tx\n"}) {
        engine::parse_status(text, privileges);
    }
    EXPECT_EQ(privileges.effective_capabilities, 0U);
    EXPECT_EQ(privileges.seccomp_mode, 0);
}

TEST(Lockdown, IsTheWordInBrackets) {
    EXPECT_EQ(engine::parse_lockdown("none [integrity] confidentiality\n"), "integrity");
    EXPECT_EQ(engine::parse_lockdown("[none] integrity confidentiality\n"), "none");
    for (const char* text : {"", "none", "][", "[none", "none]"}) {
        EXPECT_EQ(engine::parse_lockdown(text), "") << text;
    }
}

TEST(ExplainBpf, NamesTheMissingCapabilities) {
    EXPECT_THAT(engine::explain_bpf("load", EPERM, without_any()).text(),
                HasSubstr("CAP_BPF and CAP_PERFMON"));
    const std::string one =
        engine::explain_bpf("load", EPERM, with({engine::Capability::kBpf})).text();
    EXPECT_THAT(one, HasSubstr("CAP_PERFMON"));
    EXPECT_THAT(one, Not(HasSubstr("CAP_BPF and")));
    EXPECT_THAT(one, HasSubstr("setcap"));
}

TEST(ExplainBpf, DoesNotSuggestSetcapWhereItCannotHelp) {
    EXPECT_THAT(engine::explain_bpf("load", EPERM, without_new_privileges()).remedy,
                Not(HasSubstr("setcap")));
    EXPECT_THAT(engine::explain_bpf("load", EPERM, out_of_reach()).remedy, HasSubstr("--cap-add"));
    // One that is out of reach is enough.
    engine::Privileges privileges = without_any();
    privileges.bounding_capabilities =
        ~(std::uint64_t{1} << static_cast<int>(engine::Capability::kBpf));
    const engine::Unavailable without_bpf = engine::explain_bpf("load", EPERM, privileges);
    EXPECT_THAT(without_bpf.why, HasSubstr("bounding set"));
    EXPECT_EQ(without_bpf.remedy, "start the container with --cap-add BPF");
    EXPECT_THAT(engine::explain_bpf("load", EPERM, in_user_namespace({})).remedy,
                HasSubstr("outside"));
}

TEST(ExplainBpf, TakesEveryErrnoOfAnOrdinaryUserForMissingCapabilities) {
    // Which it is depends on kernel.unprivileged_bpf_disabled.
    for (const int number : {EPERM, EACCES, EINVAL}) {
        const std::string text = engine::explain_bpf("load", number, without_any()).text();
        EXPECT_THAT(text, HasSubstr("needs CAP_BPF and CAP_PERFMON")) << number;
        EXPECT_THAT(text, HasSubstr("setcap")) << number;
    }
    const engine::Privileges nested =
        in_user_namespace({engine::Capability::kBpf, engine::Capability::kPerfmon});
    EXPECT_THAT(engine::explain_bpf("load", EINVAL, nested).why, HasSubstr("user namespace"));
}

TEST(ExplainBpf, AsksForAnotherKernelOnlyWhereThatHelps) {
    engine::Privileges privileges = with({engine::Capability::kBpf, engine::Capability::kPerfmon});
    privileges.kernel_release = "5.4.0-42-generic";
    EXPECT_THAT(engine::explain_bpf("load", EINVAL, privileges).remedy, HasSubstr("5.12"));
    privileges.kernel_release = "6.18.0";
    EXPECT_EQ(engine::explain_bpf("load", EINVAL, privileges).remedy, "");
    EXPECT_THAT(engine::explain_bpf("load", EINVAL, privileges).why, HasSubstr("6.18"));
}

TEST(Setcap, GivesAGroupWhatIsNeededAndNoMore) {
    engine::Privileges privileges = without_any();
    const std::string command = engine::setcap_command(privileges, engine::Purpose::kLaunch);
    EXPECT_THAT(command, HasSubstr("setcap cap_bpf,cap_perfmon=ep /"));
    // A change of the group takes the capabilities away: it has to come first.
    EXPECT_LT(command.find("chgrp"), command.find("chmod 750"));
    EXPECT_LT(command.find("chmod 750"), command.find("setcap"));
    EXPECT_THAT(engine::setcap_command(privileges, engine::Purpose::kAttach),
                HasSubstr("cap_bpf,cap_perfmon,cap_sys_ptrace=ep"));
    // A file that asks for a capability out of reach cannot be executed at all.
    privileges.bounding_capabilities &=
        ~(std::uint64_t{1} << static_cast<int>(engine::Capability::kBpf));
    EXPECT_THAT(engine::setcap_command(privileges, engine::Purpose::kLaunch),
                HasSubstr("setcap cap_perfmon=ep /"));
}

TEST(ExplainPerf, KnowsWhereSetcapCannotHelp) {
    EXPECT_THAT(engine::explain_perf("open", EACCES, without_any()).remedy, HasSubstr("setcap"));
    EXPECT_THAT(engine::explain_perf("open", EACCES, without_new_privileges()).remedy,
                Not(HasSubstr("setcap")));
    EXPECT_THAT(engine::explain_perf("open", EACCES, out_of_reach()).remedy,
                HasSubstr("--cap-add PERFMON"));
    const engine::Unavailable nested =
        engine::explain_perf("open", EACCES, in_user_namespace({engine::Capability::kPerfmon}));
    EXPECT_THAT(nested.why, HasSubstr("user namespace"));
    EXPECT_THAT(nested.remedy, HasSubstr("outside"));
}

TEST(ExplainBpf, TellsWhatElseStandsInTheWay) {
    engine::Privileges privileges = with({engine::Capability::kBpf, engine::Capability::kPerfmon});
    privileges.lockdown = "confidentiality";
    EXPECT_THAT(engine::explain_bpf("load", EPERM, privileges).why, HasSubstr("lockdown"));
    privileges.lockdown = "none";
    privileges.in_initial_user_namespace = false;
    EXPECT_THAT(engine::explain_bpf("load", EPERM, privileges).why, HasSubstr("user namespace"));
    privileges.in_initial_user_namespace = true;
    privileges.seccomp_mode = 2;
    EXPECT_THAT(engine::explain_bpf("load", EPERM, privileges).why, HasSubstr("seccomp"));
    privileges.kernel_has_btf = false;
    EXPECT_THAT(engine::explain_bpf("load", EPERM, privileges).why, HasSubstr("btf"));
}

TEST(DoctorPerf, IsFineWithAllRights) {
    const Finding finding = judge_perf({}, with({engine::Capability::kPerfmon}));
    EXPECT_EQ(finding.verdict, Verdict::kYes);
    EXPECT_EQ(finding.cost, "");
    EXPECT_EQ(finding.remedy, "");
}

TEST(DoctorPerf, NamesTheRateLimitThatIsInTheWayOfShortIntervals) {
    engine::Privileges privileges = with({engine::Capability::kPerfmon});
    privileges.perf_max_rate = 4000;
    const Finding finding = judge_perf({}, privileges);
    EXPECT_THAT(finding.detail, HasSubstr("250 us"));
    EXPECT_THAT(finding.remedy, HasSubstr("perf_event_max_sample_rate"));
}

TEST(DoctorPerf, IsLimitedToOwnThreadsForAnOrdinaryUser) {
    const Finding finding = judge_perf({EACCES, EACCES, 0}, without_any());
    EXPECT_EQ(finding.verdict, Verdict::kLimited);
    EXPECT_THAT(finding.detail, HasSubstr("user mode only"));
    EXPECT_THAT(finding.detail, HasSubstr("perf_event_paranoid is 2"));
    EXPECT_NE(finding.cost, "");
}

TEST(DoctorPerf, IsAbsentWhereNothingOpens) {
    EXPECT_EQ(judge_perf({EACCES, EACCES, EACCES}, without_any()).verdict, Verdict::kNo);
    EXPECT_EQ(judge_perf({ENOSYS, ENOSYS, ENOSYS}, without_any()).verdict, Verdict::kNo);
}

TEST(DoctorAttach, KnowsThatAChildProvesNothingUnderYama) {
    engine::Privileges privileges = without_any();
    privileges.yama_ptrace_scope = 0;
    EXPECT_EQ(judge_attach({}, privileges).verdict, Verdict::kYes);
    privileges.yama_ptrace_scope = 1;
    const Finding finding = judge_attach({}, privileges);
    EXPECT_EQ(finding.verdict, Verdict::kLimited);
    EXPECT_THAT(finding.detail, HasSubstr("ptrace_scope is 1"));
    EXPECT_THAT(finding.remedy, HasSubstr("cap_sys_ptrace"));
    EXPECT_THAT(finding.remedy, HasSubstr("trace every process"));
    privileges = with({engine::Capability::kSysPtrace});
    privileges.yama_ptrace_scope = 2;
    EXPECT_EQ(judge_attach({}, privileges).verdict, Verdict::kYes);
    privileges.yama_ptrace_scope = 3;
    EXPECT_EQ(judge_attach({}, privileges).verdict, Verdict::kNo);
}

TEST(DoctorAttach, SaysThatWhereStillWorksWithoutPtrace) {
    engine::Privileges privileges = without_any();
    privileges.seccomp_mode = 2;
    const Finding finding = judge_attach({EPERM, 0, EPERM}, privileges);
    EXPECT_EQ(finding.verdict, Verdict::kLimited);
    EXPECT_THAT(finding.cost, HasSubstr("-w does"));
    EXPECT_THAT(finding.remedy, HasSubstr("seccomp"));
}

TEST(DoctorAttach, NeedsACapabilityForOtherUsers) {
    EXPECT_EQ(judge_other_users(without_any()).verdict, Verdict::kNo);
    EXPECT_EQ(judge_other_users(with({engine::Capability::kSysPtrace})).verdict, Verdict::kYes);
    engine::Privileges nested = with({engine::Capability::kSysPtrace});
    nested.in_initial_user_namespace = false;
    EXPECT_EQ(judge_other_users(nested).verdict, Verdict::kLimited);
}

TEST(Doctor, GivesACostAndARemedyForWhateverIsMissing) {
    const std::string text = format_findings(
        without_any(), {{"thing", Verdict::kNo, "was tried", "it is slow", "buy one"}});
    EXPECT_THAT(text, HasSubstr("thing"));
    EXPECT_THAT(text, HasSubstr("without it: it is slow"));
    EXPECT_THAT(text, HasSubstr("remedy: buy one"));
}

TEST(Doctor, ExaminesThisMachineAndLeavesNoChildBehind) {
    const std::vector<Finding> findings = examine();
    EXPECT_GE(findings.size(), 5U);
    for (const Finding& finding : findings) {
        EXPECT_NE(finding.detail, "") << finding.name;
        EXPECT_EQ(finding.verdict != Verdict::kYes, finding.cost != "") << finding.name;
    }
    EXPECT_EQ(::waitpid(-1, nullptr, 0), -1);
    EXPECT_EQ(errno, ECHILD);
}

}  // namespace
}  // namespace echion::cli
