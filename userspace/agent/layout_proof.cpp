#include "agent/layout_proof.h"

#include <cstdio>
#include <utility>

namespace echion::agent {

using cpython::LayoutVerdict;

namespace {

tl::unexpected<Error> refuse(const cpython::Version& version, const char* contradiction,
                             const char* explanation) {
    static char text[192];  // of the one sampler that there is
    std::snprintf(text, sizeof(text), "its memory is not as CPython %u.%u.%u has it: %s; %s",
                  version.major, version.minor, version.micro, contradiction, explanation);
    return fail(ErrorKind::kUnsupportedVersion, text);
}

}  // namespace

Status LayoutProof::make() {
    auto check = cpython::LayoutCheck::make();
    if (!check) {
        return tl::unexpected(check.error());
    }
    check_ = std::move(*check);
    return reader_.open_own();
}

Result<bool> LayoutProof::look(const cpython::LocatedRuntime& located) {
    if (verdict_ != LayoutVerdict::kTrue) {
        verdict_ = check_.check(reader_, located.view);
    }
    if (verdict_ == LayoutVerdict::kRefuted) {
        return refuse(located.view.version, check_.contradiction(), cpython::kOtherLayout);
    }
    return allows_samples();
}

Status LayoutProof::explain_none(const cpython::LocatedRuntime& located) const {
    return verdict_ == LayoutVerdict::kDoubted
               ? Status(
                     refuse(located.view.version, check_.contradiction(), cpython::kChangingLayout))
               : Status();
}

}  // namespace echion::agent
