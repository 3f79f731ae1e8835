#include "output/late_names.h"

#include <utility>

namespace echion::output {
namespace {

/// Of all threads of a process.
constexpr std::size_t kMaxWaitingBytes = std::size_t{1} << 20;
constexpr unsigned kMaxWaitingCheckpoints = 3;

/// A tail may be empty. A vector has room for up to twice as many.
std::size_t count_bytes(const std::string& tail) {
    return tail.size() + 2 * sizeof(LateNames::Record);
}

}  // namespace

bool LateNames::keep(Thread& thread, std::string& tail, std::int64_t value) {
    if (!thread.may_be_named || waiting_bytes_ + count_bytes(tail) > kMaxWaitingBytes) {
        thread.may_be_named = false;
        return false;
    }
    waiting_bytes_ += count_bytes(tail);
    thread.records.push_back({std::move(tail), value});
    return true;
}

std::vector<LateNames::Record> LateNames::take(Thread& thread) {
    for (const Record& record : thread.records) {
        waiting_bytes_ -= count_bytes(record.tail);
    }
    thread.checkpoints = 0;
    return std::exchange(thread.records, {});
}

bool LateNames::ends_wait(Thread& thread) {
    if (thread.records.empty() || ++thread.checkpoints < kMaxWaitingCheckpoints) {
        return false;
    }
    thread.may_be_named = false;
    return true;
}

}  // namespace echion::output
