#pragma once

#include "base/error.h"
#include "cpython/layout_check.h"
#include "cpython/locate.h"
#include "platform/process_reader.h"

namespace echion::agent {

/// Whether the row of this Python's version is true of this process: to be asked before each
/// sample, as no sample may be taken by a row that is contradicted. Texts of errors are the one
/// sampler's. Sampler thread only.
class LayoutProof {
  public:
    /// Takes memory.
    Status make();

    /// Looks, unless it is proved: whether a sample may be taken. kUnsupportedVersion if the row is
    /// refuted.
    Result<bool> look(const cpython::LocatedRuntime& located);
    /// What the last look told.
    [[nodiscard]] bool allows_samples() const {
        return verdict_ == cpython::LayoutVerdict::kTrue ||
               verdict_ == cpython::LayoutVerdict::kUntold;
    }
    /// Why there was no sample until now: an error if the row was contradicted all the time.
    [[nodiscard]] Status explain_none(const cpython::LocatedRuntime& located) const;

  private:
    cpython::LayoutCheck check_;
    ProcessReader reader_;
    cpython::LayoutVerdict verdict_ = cpython::LayoutVerdict::kUntold;
};

}  // namespace echion::agent
