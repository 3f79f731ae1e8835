// What the BPF programs cost, printed side by side:
//
//   - two processes that play ping-pong over pipes on one CPU, each round two context switches:
//     without programs, with programs that watch another process, and as their target; interleaved
//   - a busy thread with a perf timer that does nothing: what ticks cost on this machine at least
//   - the programs' own time per run, by the kernel's count (which adds some 20 ns to each)
//   - a snapshot of 20 and of 100 frames, read from a data stack and as objects
//
//     kernel_cost [ROUNDS [REPEATS]]
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/unique_fd.h"
#include "engine/bpf/bpf_session.h"
#include "engine/bpf/cpu_state_map.h"
#include "engine/bpf/snapshot_ring.h"
#include "engine/perf/perf_event.h"
#include "kernel/fake_interpreter.h"

namespace {

using echion::engine::BpfSession;

void pin_to(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    ::sched_setaffinity(0, sizeof(set), &set);
}

/// Two processes that pass a byte to and fro, when told to.
class PingPong {
  public:
    PingPong() {
        int orders[2];
        int results[2];
        if (::pipe(orders) != 0 || ::pipe(results) != 0) {
            std::abort();
        }
        pid_ = ::fork();
        if (pid_ == 0) {
            ::close(orders[1]);
            run(orders[0], results[1]);
        }
        ::close(orders[0]);
        ::close(results[1]);
        orders_.reset(orders[1]);
        results_.reset(results[0]);
        read_value(&partner_);
    }
    PingPong(const PingPong&) = delete;
    PingPong& operator=(const PingPong&) = delete;
    ~PingPong() {
        ::kill(partner_, SIGKILL);
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
    }

    [[nodiscard]] pid_t pid() const { return pid_; }
    [[nodiscard]] pid_t partner() const { return partner_; }
    /// Plays so many rounds, in pieces; nanoseconds for one, of the piece that was disturbed least.
    double play(int rounds) {
        double best = play_piece(rounds / kPieces);
        for (int i = 1; i < kPieces; ++i) {
            best = std::min(best, play_piece(rounds / kPieces));
        }
        return best;
    }

  private:
    static constexpr int kPieces = 10;

    double play_piece(int rounds) {
        if (::write(orders_.get(), &rounds, sizeof(rounds)) != sizeof(rounds)) {
            std::abort();
        }
        std::int64_t ns = 0;
        read_value(&ns);
        return static_cast<double>(ns) / rounds;
    }

    template <typename T>
    void read_value(T* value) const {
        if (::read(results_.get(), value, sizeof(*value)) != sizeof(*value)) {
            std::abort();
        }
    }

    [[noreturn]] static void run(int orders, int results) {
        pin_to(0);
        int ping[2];
        int pong[2];
        if (::pipe(ping) != 0 || ::pipe(pong) != 0) {
            std::abort();
        }
        const pid_t partner = ::fork();
        char byte = 'b';
        if (partner == 0) {
            // So that it ends with the other one, however that ends.
            ::close(ping[1]);
            ::close(results);
            ::close(orders);
            while (::read(ping[0], &byte, 1) == 1 && ::write(pong[1], &byte, 1) == 1) {
            }
            ::_exit(0);
        }
        if (::write(results, &partner, sizeof(partner)) != sizeof(partner)) {
            ::_exit(1);
        }
        int rounds = 0;
        while (::read(orders, &rounds, sizeof(rounds)) == sizeof(rounds)) {
            const std::int64_t begin = echion::monotonic_ns();
            for (int i = 0; i < rounds; ++i) {
                if (::write(ping[1], &byte, 1) != 1 || ::read(pong[0], &byte, 1) != 1) {
                    ::_exit(1);
                }
            }
            const std::int64_t ns = echion::monotonic_ns() - begin;
            if (::write(results, &ns, sizeof(ns)) != sizeof(ns)) {
                ::_exit(1);
            }
        }
        ::_exit(0);
    }

    pid_t pid_ = 0;
    pid_t partner_ = 0;
    echion::UniqueFd orders_;
    echion::UniqueFd results_;
};

std::unique_ptr<BpfSession> open_session() {
    auto session = BpfSession::open({});
    if (!session) {
        std::printf("skipped: %s\n", session.error().text().c_str());
        std::exit(0);
    }
    return std::move(*session);
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

void print_stats(const BpfSession& session, const char* when) {
    std::printf("programs, %s:\n", when);
    for (const auto& program : session.program_stats()) {
        if (program.run_count != 0) {
            std::printf(
                "  %-18s %8.0f ns a run, %llu runs, %u instructions\n", program.name.c_str(),
                static_cast<double>(program.run_ns) / static_cast<double>(program.run_count),
                static_cast<unsigned long long>(program.run_count), program.instructions);
        }
    }
}

void compare_ping_pong(int rounds, int repeats) {
    PingPong game;
    std::vector<double> bare;
    std::vector<double> watching_other;
    std::vector<double> watched;
    std::vector<double> other_ratios;
    std::vector<double> watched_ratios;
    game.play(rounds);
    for (int i = 0; i < repeats; ++i) {
        bare.push_back(game.play(rounds));
        {
            const auto session = open_session();
            (void)session->add_target(::getpid());
            watching_other.push_back(game.play(rounds));
        }
        {
            const auto session = open_session();
            (void)session->add_target(game.pid());
            (void)session->add_target(game.partner());
            watched.push_back(game.play(rounds));
        }
        other_ratios.push_back(watching_other.back() / bare.back());
        watched_ratios.push_back(watched.back() / bare.back());
    }
    std::printf("ping-pong on one CPU, ns a round of two switches, best piece, median of %d:\n",
                repeats);
    std::printf("  %-28s %8.0f\n", "no programs", median(bare));
    std::printf("  %-28s %8.0f   ratio %.3f\n", "watching another process", median(watching_other),
                median(other_ratios));
    std::printf("  %-28s %8.0f   ratio %.3f\n", "the target itself", median(watched),
                median(watched_ratios));

    auto session = open_session();
    (void)session->enable_stats();
    game.play(rounds);
    print_stats(*session, "ping-pong not a target");
    session = open_session();
    (void)session->enable_stats();
    (void)session->add_target(game.pid());
    (void)session->add_target(game.partner());
    game.play(rounds);
    print_stats(*session, "ping-pong the target");
}

/// CPU time of a fixed amount of work.
double work_ms() {
    const std::int64_t begin = echion::read_clock_ns(CLOCK_THREAD_CPUTIME_ID);
    volatile long sum = 0;
    for (long i = 0; i < 15'000'000; ++i) {
        sum = sum + i;
    }
    return static_cast<double>(echion::read_clock_ns(CLOCK_THREAD_CPUTIME_ID) - begin) / 1e6;
}

// What a tick costs its thread when nothing comes of it: no program, no signal. On a virtual
// machine each is an exit to its host. No profiler that ticks can be below this.
void measure_bare_ticks(int repeats) {
    std::printf("busy thread with a bare perf timer, CPU for the same work, median of %d:\n",
                repeats);
    for (const std::int64_t interval_ns : {1'000'000, 100'000}) {
        std::vector<double> ratios;
        double ticked_ms = 0;
        for (int i = 0; i < repeats; ++i) {
            const double bare_ms = work_ms();
            auto timer = echion::perf::open_task_timer(0, echion::perf::Inherit::kNothing,
                                                       {.interval_ns = interval_ns});
            if (!timer || !echion::perf::enable(*timer)) {
                std::printf("  skipped: no perf events\n");
                return;
            }
            ticked_ms = work_ms();
            ratios.push_back(ticked_ms / bare_ms);
        }
        const double ratio = median(ratios);
        std::printf("  every %4lld us: ratio %.3f, %.1f us a tick\n",
                    static_cast<long long>(interval_ns / 1000), ratio,
                    (1 - 1 / ratio) * static_cast<double>(interval_ns) / 1e3);
    }
}

void measure_snapshot(bool in_data_stack, int depth) {
    static echion::test::FakeThreadState state;
    static std::uint64_t cframe[2];
    static echion::test::FakeChunk chunk;
    state.cframe = reinterpret_cast<std::uintptr_t>(cframe);
    state.chunk = &chunk;
    state.top = &chunk.frames[depth];
    for (int i = 0; i < depth; ++i) {
        chunk.frames[i] = {};
        chunk.frames[i].previous =
            i == 0 ? 0 : reinterpret_cast<std::uintptr_t>(&chunk.frames[i - 1]);
    }
    cframe[1] = reinterpret_cast<std::uintptr_t>(&chunk.frames[depth - 1]);

    const auto session = open_session();
    int to_parent[2];
    int to_child[2];
    if (::pipe(to_parent) != 0 || ::pipe(to_child) != 0) {
        std::abort();
    }
    struct Hello {
        std::uint64_t refs;
        std::int64_t sampler_tid;
    };
    const pid_t child = ::fork();
    if (child == 0) {
        auto refs = echion::engine::ThreadRefTable::make(ECHION_DEFAULT_THREADS);
        std::thread sampler([&] {
            sigset_t all;
            ::sigfillset(&all);
            ::pthread_sigmask(SIG_SETMASK, &all, nullptr);
            const Hello hello{refs->address(), ::syscall(SYS_gettid)};
            if (::write(to_parent[1], &hello, sizeof(hello)) != sizeof(hello)) {
                ::_exit(1);
            }
            ::pause();
        });
        std::uint32_t slot[2] = {};
        if (::read(to_child[0], slot, sizeof(slot)) != sizeof(slot)) {
            ::_exit(1);
        }
        refs->set(slot[0], slot[1], reinterpret_cast<std::uintptr_t>(&state));
        for (;;) {
        }
    }
    Hello hello{};
    if (::read(to_parent[0], &hello, sizeof(hello)) != sizeof(hello)) {
        std::abort();
    }
    const auto target = session->add_target(child);
    const auto states = echion::engine::CpuStateMap::open(session->state_fd());
    const auto pid = static_cast<std::uint32_t>(child);
    const auto slot = states->find_slot(pid, pid);
    const std::uint32_t slot_and_generation[2] = {*slot, states->read(*slot)->generation};
    auto ring = echion::engine::SnapshotRing::open(*session->snapshot_fd(*target),
                                                   states->snapshot_ring_bytes());
    const auto report = session->start_timer(
        *target, {.wall = true,
                  .interval_ns = 50'000,
                  .sampler_tid = static_cast<std::uint32_t>(hello.sampler_tid),
                  .signal = SIGRTMIN + 3,
                  .snapshot = echion::test::fake_layout(hello.refs, in_data_stack)});
    if (!report || ::write(to_child[1], slot_and_generation, sizeof(slot_and_generation)) !=
                       sizeof(slot_and_generation)) {
        std::abort();
    }
    (void)session->enable_stats();
    std::size_t taken = 0;
    while (taken < 10'000) {
        const auto drained = ring->drain([](const echion::engine::SnapshotView&) {});
        taken += drained.value_or(0);
        ::usleep(1000);
    }
    for (const auto& program : session->program_stats()) {
        if (program.name == "on_thread_tick") {
            std::printf(
                "  %-11s %4d frames: %6.0f ns a tick\n", in_data_stack ? "data stack" : "objects",
                depth,
                static_cast<double>(program.run_ns) / static_cast<double>(program.run_count));
        }
    }
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
}

}  // namespace

int main(int argc, char** argv) {
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 20'000;
    const int repeats = argc > 2 ? std::atoi(argv[2]) : 15;
    compare_ping_pong(rounds, repeats);
    measure_bare_ticks(41);
    std::printf("a tick with a snapshot, the kernel's own count:\n");
    for (const bool in_data_stack : {true, false}) {
        for (const int depth : {1, 20, 100}) {
            measure_snapshot(in_data_stack, depth);
        }
    }
    return 0;
}
