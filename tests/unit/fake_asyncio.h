#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cpython/coroutines.h"
#include "fake_objects.h"
#include "test_memory.h"

namespace echion::test {

/// Builds event loops, tasks, coroutines and what hangs on them in a TestMemory, as the version of
/// `layout` keeps them.
class FakeAsyncio {
  public:
    using Layout = cpython::Layout;
    using State = cpython::CoroutineState;
    using Attributes = std::vector<std::pair<std::string_view, Address>>;

    FakeAsyncio(TestMemory& memory, const Layout& layout)
        : memory_(memory), layout_(layout), make_(memory, layout) {
        none = make_object("NoneType");
        loop = make_object("Loop");
    }

    FakeObjects& objects() { return make_; }

    Address none, loop;

    /// A type of that name, made once. `size`: tp_basicsize. `base`: it is a class made of that.
    Address type(std::string_view name, std::intptr_t size = 32, Address base = {}) {
        const auto known = types_.find(name);
        if (known != types_.end()) {
            return known->second;
        }
        const Address made = make_.make_type(base ? cpython::kTypeHeap : 0, size);
        name_type(made, name);
        memory_.write(made + at(layout_.type.tp_base), base);
        types_.emplace(name, made);
        return made;
    }
    Address make_c_string(std::string_view text) {
        // With bytes behind it, as a reader copies more than the text.
        const Address made = memory_.allocate(text.size() + 64);
        memory_.write_bytes(made, text.data(), text.size());
        return made;
    }
    void name_type(Address type, std::string_view name) {
        memory_.write(type + at(layout_.type.tp_name), make_c_string(name));
    }

    /// An object with room for a few fields behind its head, which are in `words`.
    Address make_object(std::string_view type_name, const std::vector<Address>& words = {}) {
        const std::size_t size = at(layout_.object.size);
        const Address made = memory_.allocate(size + (words.size() + 1) * sizeof(void*));
        memory_.write(made + at(layout_.object.ob_type), type(type_name));
        write_words(made + size, words);
        return made;
    }
    /// An instance of a Python class.
    Address make_instance(std::string_view class_name, const Attributes& attributes) {
        FakeObjects::Items items;
        std::vector<Address> values;
        for (const auto& [name, value] : attributes) {
            items.emplace_back(make_.make_str(name), Address());
            values.push_back(value);
        }
        const Address keys = make_.make_keys(items, true, true);
        const Address made = make_.make_class(keys);
        name_type(made, class_name);
        return make_.make_instance(made, keys, values);
    }

    Address make_tuple(const std::vector<Address>& items) {
        const Address made =
            memory_.allocate(at(layout_.tuple.items) + (items.size() + 1) * sizeof(void*));
        memory_.write(made + at(layout_.object.ob_type), type("tuple"));
        memory_.write(made + at(layout_.object.ob_size), static_cast<std::intptr_t>(items.size()));
        write_words(made + at(layout_.tuple.items), items);
        return made;
    }
    Address make_list(const std::vector<Address>& items) {
        const Address made = memory_.allocate(at(layout_.list.items) + sizeof(void*));
        const Address array = memory_.allocate((items.size() + 1) * sizeof(void*));
        memory_.write(made + at(layout_.object.ob_type), type("list"));
        memory_.write(made + at(layout_.object.ob_size), static_cast<std::intptr_t>(items.size()));
        memory_.write(made + at(layout_.list.items), array);
        write_words(array, items);
        return made;
    }
    /// `keys`: of its slots, null where there is none; filled up to a power of two.
    Address make_set(std::vector<Address> keys) {
        const cpython::SetLayout& fields = layout_.set;
        std::size_t slots = 8;
        while (slots < keys.size()) {
            slots *= 2;
        }
        const Address made = memory_.allocate(at(fields.table) + sizeof(void*));
        const Address table = memory_.allocate(slots * at(fields.entry_size));
        memory_.write(made + at(layout_.object.ob_type), type("set"));
        memory_.write(made + at(fields.mask), static_cast<std::intptr_t>(slots - 1));
        memory_.write(made + at(fields.table), table);
        for (std::size_t i = 0; i < keys.size(); ++i) {
            memory_.write(table + i * at(fields.entry_size) + at(fields.entry_key), keys[i]);
        }
        return made;
    }
    Address make_weak_set(const std::vector<Address>& objects) {
        std::vector<Address> references;
        for (const Address object : objects) {
            const std::size_t place = at(layout_.weak_reference.object);
            references.push_back(memory_.allocate(place + sizeof(void*)));
            memory_.write(references.back() + at(layout_.object.ob_type), type("weakref"));
            memory_.write(references.back() + place, object);
        }
        return make_instance(
            "WeakSet", {{"_pending_removals", none}, {"data", make_set(std::move(references))}});
    }

    /// A function of Python with a closure.
    Address make_function(std::string_view qualname, const Attributes& closure = {}) {
        const cpython::FunctionLayout& fields = layout_.function;
        const cpython::CodeLayout& code_fields = layout_.code;
        std::vector<Address> names;
        std::vector<Address> cells;
        const bool is_apart = cpython::has(code_fields.freevars);
        if (!is_apart) {
            names.push_back(make_.make_str("outer"));  // a variable of its own of such a name
        }
        for (const auto& [name, value] : closure) {
            names.push_back(make_.make_str(name));
            cells.push_back(memory_.allocate(at(layout_.cell.contents) + sizeof(void*)));
            memory_.write(cells.back() + at(layout_.object.ob_type), type("cell"));
            memory_.write(cells.back() + at(layout_.cell.contents), value);
        }
        const Address code = memory_.allocate(at(code_fields.size));
        memory_.write(code + at(is_apart ? code_fields.freevars : code_fields.localsplusnames),
                      make_tuple(names));
        const Address made = memory_.allocate(kFunctionBytes);
        memory_.write(made + at(layout_.object.ob_type), type("function"));
        memory_.write(made + at(fields.code), code);
        memory_.write(made + at(fields.qualname), make_.make_str(qualname));
        memory_.write(made + at(fields.closure), closure.empty() ? Address() : make_tuple(cells));
        return made;
    }
    Address make_method(std::string_view qualname, Address self) {
        const cpython::MethodLayout& fields = layout_.method;
        const Address made = make_object("method", {{}, {}, {}});
        memory_.write(made + at(fields.function), make_function(qualname));
        memory_.write(made + at(fields.self), self);
        return made;
    }
    Address make_builtin(std::string_view name, Address self) {
        const cpython::BuiltinLayout& fields = layout_.builtin;
        const Address definition = memory_.allocate(4 * sizeof(void*));
        memory_.write(definition, make_c_string(name));
        const Address made = make_object("builtin_function_or_method", {{}, {}, {}});
        memory_.write(made + at(fields.definition), definition);
        memory_.write(made + at(fields.self), self);
        return made;
    }
    Address make_partial(Address function, const std::vector<Address>& arguments) {
        return make_object("functools.partial", {function, make_tuple(arguments)});
    }
    /// What a task written in C hangs onto what it waits for.
    Address make_wakeup(Address task) {
        return layout_.minor < 10 ? make_object("TaskWakeupMethWrapper", {task})
                                  : make_builtin("task_wakeup", task);
    }
    /// A queue whose getters wait; `first`: their place in the deque's block.
    Address make_queue(const std::vector<Address>& getters, std::size_t first = 3) {
        const Address block = memory_.allocate(66 * sizeof(void*));
        write_words(block + (1 + first) * sizeof(void*), getters);
        const Address deque = memory_.allocate(at(layout_.object.ob_size) + 6 * sizeof(void*));
        memory_.write(deque + at(layout_.object.ob_type), type("collections.deque"));
        const Address fields = deque + at(layout_.object.ob_size);
        memory_.write(fields, static_cast<std::intptr_t>(getters.size()));
        memory_.write(fields + sizeof(void*), block);
        memory_.write(fields + 3 * sizeof(void*), static_cast<std::intptr_t>(first));
        return make_instance("Queue", {{"_maxsize", none}, {"_getters", deque}});
    }

    Address future_type() { return type("_asyncio.Future", layout_.task.future_size); }
    Address task_type() { return type("_asyncio.Task", layout_.task.size); }

    Address make_future(Address of_type = {}) {
        return make_pending(of_type ? of_type : future_type(), at(layout_.task.future_size));
    }
    struct Task {
        Address coro{};
        Address name{};
        Address fut_waiter{};
        Address loop{};     ///< null: this one's
        Address of_type{};  ///< null: _asyncio.Task
        bool is_done = false;
    };
    Address make_task(const Task& task) {
        const cpython::TaskLayout& fields = layout_.task;
        const Address made =
            make_pending(task.of_type ? task.of_type : task_type(), at(fields.size));
        if (task.loop) {
            memory_.write(made + at(fields.loop), task.loop);
        }
        memory_.write(made + at(fields.state), std::int32_t{task.is_done ? 1 : 0});
        memory_.write(made + at(fields.coro), task.coro);
        memory_.write(made + at(fields.name), task.name);
        memory_.write(made + at(fields.fut_waiter), task.fut_waiter);
        return made;
    }
    /// The first callback stands in the future, the others in a list.
    void set_callbacks(Address future, const std::vector<Address>& callbacks) {
        std::vector<Address> tuples;
        for (std::size_t i = 1; i < callbacks.size(); ++i) {
            tuples.push_back(make_tuple({callbacks[i], none}));
        }
        memory_.write(future + at(layout_.task.callback0),
                      callbacks.empty() ? Address() : callbacks[0]);
        memory_.write(future + at(layout_.task.callbacks),
                      tuples.empty() ? Address() : make_list(tuples));
    }
    /// Makes `task` wait for `awaited`, a future or another task, as the only one.
    void await(Address task, Address awaited) {
        memory_.write(task + at(layout_.task.fut_waiter), awaited);
        set_callbacks(awaited, {make_wakeup(task)});
    }

    /// What drives it at the moment.
    enum class Stop {
        kAwait,
        kYieldFrom,
        kYield,  ///< it drives nothing
    };
    struct Coroutine {
        Address object, place, code;
    };
    // Where each of them stands, and has its next instruction, in bytes of its code.
    static constexpr std::int32_t kOffset = 4;

    /// `awaits`: what it drives; null: None.
    Coroutine make_coroutine(State state, Address awaits = {}, Stop stop = Stop::kAwait,
                             std::string_view type_name = "coroutine") {
        const cpython::GeneratorLayout& fields = layout_.generator;
        const cpython::FrameLayout& frame_fields = layout_.frame;
        const Address code = make_code(stop);
        const std::size_t frame_bytes = (at(frame_fields.size) + 64) / 8 * 8;
        const std::size_t values_at =
            cpython::has(frame_fields.localsplus) ? at(frame_fields.localsplus) : frame_bytes;
        const std::size_t size = values_at + 4 * sizeof(void*);
        Coroutine made;
        made.code = code;
        if (fields.frame_is_inside) {
            made.object = memory_.allocate(at(fields.frame) + size);
            made.place = made.object + at(fields.frame);
            memory_.write(made.object + at(fields.state), state_value(state, stop));
        } else {
            made.object = memory_.allocate(at(fields.frame) + 2 * sizeof(void*));
            made.place = memory_.allocate(size);
            memory_.write(made.object + at(fields.frame),
                          state == State::kFinished ? Address() : made.place);
        }
        memory_.write(made.object + at(layout_.object.ob_type), type(type_name));
        if (cpython::has(frame_fields.owner)) {
            memory_.write(made.place + at(frame_fields.owner),
                          static_cast<std::int8_t>(frame_fields.owner_generator));
        }
        // From 3.14 on, references with a bit that is no part of the address.
        const std::size_t tag = layout_.frame.code_tag & 1U;
        memory_.write(made.place + at(frame_fields.code), code + tag);
        write_instruction(made, state == State::kCreated);
        const std::size_t depth = 1 + fields.awaited_below_top;
        const Address top = made.place + values_at + depth * sizeof(void*);
        memory_.write(top - fields.awaited_below_top * sizeof(void*),
                      (awaits ? awaits : none) + tag);
        write_stack_top(made.place, values_at, depth, state == State::kExecuting);
        return made;
    }
    /// An iterator of a kind that drives `object`.
    Address make_driver(Address object, std::string_view type_name = "coroutine_wrapper") {
        return make_object(type_name, {object});
    }
    Address make_future_iterator(Address future) {
        return make_object("_asyncio.FutureIter", {future});
    }

    /// Where a thread is that runs `loop`; with list heads that are empty, where there are some.
    struct Thread {
        Address interpreter, state;
    };
    Thread make_thread(Address running_loop) {
        const cpython::ThreadStateLayout& fields = layout_.thread_state;
        Thread made;
        made.state = memory_.allocate(kThreadStateBytes);
        if (cpython::has(fields.asyncio_running_loop)) {
            memory_.write(made.state + at(fields.asyncio_running_loop), running_loop);
        } else {
            const Address value = layout_.minor < 12
                                      ? make_object("_RunningLoopHolder", {running_loop, none})
                                      : running_loop;
            memory_.write(
                made.state + at(fields.dict),
                make_.make_dict({{make_.make_str("__asyncio_running_event_loop__"), value}}));
        }
        const cpython::Offset head = layout_.interpreter.asyncio_tasks_head;
        made.interpreter = memory_.allocate(4 * sizeof(void*));
        if (cpython::has(head)) {
            // Nothing else of it is read.
            made.interpreter = made.interpreter - at(head);
            link(made.interpreter + at(head), {});
            link(made.state + at(fields.asyncio_tasks_head), {});
        }
        return made;
    }
    /// Lays a list of tasks behind a head (3.14 and later).
    void link(Address head, const std::vector<Address>& tasks) {
        Address last = head;
        const auto join = [&](Address node) {
            memory_.write(last, node);
            memory_.write(node + sizeof(void*), last);
            last = node;
        };
        for (const Address task : tasks) {
            join(task + at(layout_.task.node));
        }
        join(head);
    }
    /// Takes a task out of the list behind a head that has `tasks`.
    void unlink(Address head, std::vector<Address>& tasks, Address task) {
        std::erase(tasks, task);
        link(head, tasks);
        memory_.write(task + at(layout_.task.node), Address());
        memory_.write(task + at(layout_.task.node) + sizeof(void*), Address());
    }

    /// sys.modules with asyncio's: `globals` of asyncio.tasks, and of the C module the first words
    /// of what it keeps.
    Address make_modules(const Attributes& globals, const std::vector<Address>& c_state = {}) {
        FakeObjects::Items items;
        for (const auto& [name, value] : globals) {
            items.emplace_back(make_.make_str(name), value);
        }
        const Address tasks = make_.make_module(make_.make_dict(items));
        const Address c_module = memory_.allocate(64);
        memory_.write(c_module + at(layout_.object.ob_type), make_.module_type);
        if (cpython::has(layout_.module.md_state)) {
            const Address state = memory_.allocate(kCStateWords * sizeof(void*));
            write_words(state, c_state);
            memory_.write(c_module + at(layout_.module.md_state), state);
        }
        return make_.make_dict({{make_.make_str("sys"), make_.make_int(1)},
                                {make_.make_str("_asyncio"), c_module},
                                {make_.make_str("asyncio.tasks"), tasks}});
    }
    /// A thread whose loop has these tasks, where this version keeps them, and sys.modules.
    struct Loop {
        Thread thread;
        Address modules;
    };
    Loop make_loop(const std::vector<Address>& tasks) {
        Loop made{make_thread(loop), {}};
        if (cpython::has(layout_.thread_state.asyncio_tasks_head)) {
            link(made.thread.state + at(layout_.thread_state.asyncio_tasks_head), tasks);
            made.modules = make_modules({});
        } else {
            made.modules = make_modules(
                {{layout_.minor < 12 ? "_all_tasks" : "_scheduled_tasks", make_weak_set(tasks)}});
        }
        return made;
    }

  private:
    static constexpr std::size_t kThreadStateBytes = 1200;
    static constexpr std::size_t kFunctionBytes = 160;
    static constexpr std::size_t kCStateWords = 40;
    static constexpr std::size_t kCodeBytes = 32;
    static constexpr std::int8_t kNoState = 5;  // of one that has ended, in any version

    static std::size_t at(cpython::Offset offset) { return cpython::at(offset); }

    void write_words(Address to, const std::vector<Address>& words) {
        for (std::size_t i = 0; i < words.size(); ++i) {
            memory_.write(to + i * sizeof(void*), words[i]);
        }
    }

    Address make_pending(Address of_type, std::size_t size) {
        const Address made = memory_.allocate(size);
        memory_.write(made + at(layout_.object.ob_type), of_type);
        memory_.write(made + at(layout_.task.loop), loop);
        return made;
    }

    /// The instruction behind the one at kOffset says what a suspended frame does, up to 3.12.
    Address make_code(Stop stop) {
        const cpython::CodeLayout& fields = layout_.code;
        const cpython::GeneratorLayout& states = layout_.generator;
        const Address code = memory_.allocate(at(fields.size) + kCodeBytes);
        std::string bytes(kCodeBytes, '\x09');  // NOP or the like
        if (states.awaiting_kind == cpython::AwaitingKind::kYieldFrom && stop != Stop::kYield) {
            bytes[kOffset + 2] = static_cast<char>(states.yield_from);
        } else if (states.awaiting_kind == cpython::AwaitingKind::kResume) {
            bytes[kOffset + 2] = static_cast<char>(states.resume);
            bytes[kOffset + 3] = static_cast<char>(stop == Stop::kYield       ? 1
                                                   : stop == Stop::kYieldFrom ? 2
                                                                              : 3);
        }
        if (cpython::has(fields.code_adaptive)) {
            memory_.write_bytes(code + at(fields.code_adaptive), bytes.data(), bytes.size());
        } else {
            memory_.write(code + at(fields.co_code), make_.make_bytes(bytes));
        }
        if (cpython::has(fields.tlbc)) {
            memory_.write(code + at(layout_.object.ob_size), std::uintptr_t{kCodeBytes / 2});
        }
        return code;
    }

    void write_instruction(const Coroutine& made, bool is_created) {
        const Address to = made.place + at(layout_.frame.instruction);
        switch (layout_.frame.instruction_kind) {
            case cpython::InstructionKind::kByteIndex:
                memory_.write(to, std::int32_t{is_created ? -1 : kOffset});
                break;
            case cpython::InstructionKind::kCodeUnitIndex:
                memory_.write(to, std::int32_t{is_created ? -1 : kOffset / 2});
                break;
            case cpython::InstructionKind::kCodePointer:
                memory_.write(to, made.code + at(layout_.code.code_adaptive) + kOffset);
                break;
        }
    }

    void write_stack_top(Address place, std::size_t values_at, std::size_t depth,
                         bool is_executing) {
        const cpython::FrameLayout& fields = layout_.frame;
        switch (fields.stacktop_kind) {
            case cpython::StackTopKind::kPointer:
                memory_.write(place + at(fields.stacktop),
                              is_executing ? Address() : place + values_at + depth * sizeof(void*));
                break;
            case cpython::StackTopKind::kDepth:
                memory_.write(place + at(fields.valuestack), place + values_at);
                memory_.write(place + at(fields.stacktop),
                              is_executing ? std::int32_t{-1} : static_cast<std::int32_t>(depth));
                break;
            case cpython::StackTopKind::kIndex:
                memory_.write(place + at(fields.stacktop),
                              is_executing ? std::int32_t{-1} : static_cast<std::int32_t>(depth));
                break;
        }
    }

    std::int8_t state_value(State state, Stop stop) const {
        const cpython::GeneratorLayout& fields = layout_.generator;
        switch (state) {
            case State::kCreated:
                return static_cast<std::int8_t>(fields.created);
            case State::kExecuting:
                return static_cast<std::int8_t>(fields.executing);
            case State::kFinished:
                return kNoState;
            case State::kSuspended:
                break;
        }
        const bool says_so = fields.awaiting_kind == cpython::AwaitingKind::kState;
        return static_cast<std::int8_t>(
            says_so && stop != Stop::kYield ? fields.suspended_yield_from : fields.suspended);
    }

    TestMemory& memory_;
    const Layout& layout_;
    FakeObjects make_;
    std::map<std::string, Address, std::less<>> types_;
};

}  // namespace echion::test
