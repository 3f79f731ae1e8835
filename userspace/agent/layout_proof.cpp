#include "agent/layout_proof.h"

#include <time.h>

#include <cstdio>
#include <utility>

#include "base/clock.h"

namespace echion::agent {

using cpython::LayoutVerdict;

Status LayoutProof::make() {
    auto check = cpython::LayoutCheck::make();
    if (!check) {
        return tl::unexpected(check.error());
    }
    check_ = std::move(*check);
    return reader_.open_own();
}

Result<bool> LayoutProof::look(const cpython::LocatedRuntime& located, std::int64_t now_ns) {
    if (verdict_ == LayoutVerdict::kTrue ||
        (verdict_ == LayoutVerdict::kUntold && looks_ > kEagerLooks &&
         now_ns - looked_ns_ < kLookNs)) {
        return true;
    }
    ++looks_;
    looked_ns_ = now_ns;
    verdict_ = check_.check(reader_, located.view, [] {
        return read_clock_ns(CLOCK_PROCESS_CPUTIME_ID) - read_clock_ns(CLOCK_THREAD_CPUTIME_ID);
    });
    if (verdict_ == LayoutVerdict::kRefuted) {
        return contradict(located);
    }
    return verdict_ != LayoutVerdict::kDoubted;
}

Status LayoutProof::outcome(const cpython::LocatedRuntime& located) const {
    return verdict_ == LayoutVerdict::kDoubted ? Status(contradict(located)) : Status();
}

tl::unexpected<Error> LayoutProof::contradict(const cpython::LocatedRuntime& located) const {
    static char text[160];  // of the one sampler that there is
    const cpython::Version& version = located.view.version;
    std::snprintf(
        text, sizeof(text),
        "its memory is not as CPython %u.%u.%u has it: %s; a pre-release, or a build that "
        "was changed?",
        version.major, version.minor, version.micro, check_.contradiction());
    return fail(ErrorKind::kUnsupportedVersion, text);
}

}  // namespace echion::agent
