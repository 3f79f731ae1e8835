#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/stack_sink.h"
#include "output/late_names.h"

namespace echion::output {

/// A stack as a format's numbers of its frames, root first.
using NumberedStack = std::vector<std::uint64_t>;

[[nodiscard]] inline std::size_t held_bytes(const NumberedStack& stack) {
    return stack.capacity() * sizeof(stack[0]);
}

/// What formats have in common in receiving the samples of one process: the threads, their stacks,
/// and the records of those whose names are not known yet. A record is a *head*, which names its
/// thread, and a *tail*, the rest.
///
/// `Stack` is the form in which a format keeps a stack; held_bytes(stack) is what it holds.
template <typename Stack>
class ProcessSink : public model::StackSink {
  public:
    void thread(std::uint32_t thread_id, std::int64_t interpreter_id,
                std::uint32_t native_thread_id, std::string_view name) override {
        if (thread_id >= threads_.size()) {
            threads_.resize(thread_id + 1);
        }
        Thread& thread = threads_[thread_id];
        thread.head = make_head(interpreter_id, native_thread_id, name);
        count_held(thread);
        thread.late.may_be_named = name.empty();
        if (!name.empty()) {
            put_waiting(thread);
        }
    }

    void thread_ended(std::uint32_t thread_id) override {
        if (Thread* thread = find(thread_id)) {
            put_waiting(*thread);
            held_bytes_ -= thread->held_bytes;
            *thread = {};
        }
    }

    void stack(std::uint32_t thread_id, model::StackMarks marks, std::size_t kept,
               std::span<const model::Frame> frames) override {
        if (Thread* thread = find(thread_id)) {
            change_stack(*thread, marks, kept, frames);
            thread->marks = marks;
            count_held(*thread);
        }
    }

    void sample(std::uint32_t thread_id, std::int64_t value, model::SampleTime /*until*/) override {
        if (Thread* thread = find(thread_id)) {
            put_or_keep(*thread, make_tail(*thread), value);
        }
    }

    void missed(std::uint32_t thread_id, std::int64_t value, model::SampleTime /*until*/) override {
        if (Thread* thread = find(thread_id)) {
            put_or_keep(*thread, make_missed_tail(), value);
        }
    }

    void checkpoint() override {
        for (Thread& thread : threads_) {
            if (LateNames::ends_wait(thread.late)) {
                put_waiting(thread);
            }
        }
    }

    /// Of threads, stacks and waiting records.
    [[nodiscard]] std::size_t memory_bytes() const override {
        return held_bytes_ + late_names_.waiting_bytes() + threads_.capacity() * sizeof(Thread);
    }

  protected:
    struct Thread {
        std::string head;
        Stack stack;
        model::StackMarks marks;
        LateNames::Thread late;      // whose records have no head
        std::size_t held_bytes = 0;  // as counted last
    };

    virtual std::string make_head(std::int64_t interpreter_id, std::uint32_t native_thread_id,
                                  std::string_view name) = 0;
    /// Makes thread.stack what the arguments of stack() say; thread.marks are those of before.
    virtual void change_stack(Thread& thread, model::StackMarks marks, std::size_t kept,
                              std::span<const model::Frame> frames) = 0;
    virtual std::string make_tail(const Thread& thread) = 0;
    virtual std::string make_missed_tail() = 0;
    /// The thread has the name that its records get.
    virtual void put_record(const Thread& thread, std::string_view tail, std::int64_t value) = 0;

    /// What the heads and stacks of all other threads hold.
    [[nodiscard]] std::size_t held_bytes_beside(const Thread& thread) const {
        return held_bytes_ - thread.held_bytes;
    }

  private:
    Thread* find(std::uint32_t thread_id) {
        return thread_id < threads_.size() ? &threads_[thread_id] : nullptr;
    }

    void put_or_keep(Thread& thread, std::string tail, std::int64_t value) {
        if (!late_names_.keep(thread.late, tail, value)) {
            put_waiting(thread);
            put_record(thread, tail, value);
        }
    }

    void put_waiting(Thread& thread) {
        for (const LateNames::Record& record : late_names_.take(thread.late)) {
            put_record(thread, record.tail, record.value);
        }
    }

    void count_held(Thread& thread) {
        held_bytes_ -= thread.held_bytes;
        thread.held_bytes = thread.head.capacity() + held_bytes(thread.stack);
        held_bytes_ += thread.held_bytes;
    }

    std::vector<Thread> threads_;
    LateNames late_names_;
    std::size_t held_bytes_ = 0;  // of all threads
};

}  // namespace echion::output
