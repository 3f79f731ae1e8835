// The session of a build without the BPF programs: there is none to be had.
#include "engine/bpf/bpf_session.h"

namespace echion::engine {

struct BpfSession::Impl {};

BpfSession::BpfSession(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
BpfSession::~BpfSession() = default;

bool bpf_is_built_in() { return false; }

tl::expected<std::unique_ptr<BpfSession>, Unavailable> BpfSession::open(const BpfOptions&) {
    return tl::unexpected(Unavailable{"load the BPF programs", 0,
                                      "this build of echion does not contain them",
                                      "build with clang, bpftool and libbpf installed"});
}

// None of these can be reached: there are no objects.
Result<BpfSession::Target> BpfSession::add_target(pid_t) {
    return fail(ErrorKind::kRefused, "no BPF in this build");
}
std::optional<BpfSession::Target> BpfSession::find_target(pid_t) const { return std::nullopt; }
void BpfSession::remove_target(Target) {}
int BpfSession::state_fd() const { return -1; }
Result<int> BpfSession::snapshot_fd(Target) {
    return fail(ErrorKind::kRefused, "no BPF in this build");
}
bool is_valid(const echion_snapshot_layout&) { return false; }
Result<TimerReport> BpfSession::start_timer(Target, const TimerRequest&) {
    return fail(ErrorKind::kRefused, "no BPF in this build");
}
void BpfSession::stop_timer(Target) {}
std::vector<ThreadCpu> BpfSession::count_cpu(Target, bool) { return {}; }
void BpfSession::note_ended() {}
std::uint64_t BpfSession::threads_missed() const { return 0; }
Status BpfSession::keep_ticking() { return {}; }
std::array<std::uint64_t, ECHION_COUNTERS> BpfSession::counters() const { return {}; }
Status BpfSession::enable_stats() { return {}; }
std::vector<BpfProgramStats> BpfSession::program_stats() const { return {}; }
std::uint64_t BpfSession::threads_refused() const { return 0; }

}  // namespace echion::engine
