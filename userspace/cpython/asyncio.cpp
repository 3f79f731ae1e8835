#include "cpython/asyncio.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

#include "cpython/containers.h"

namespace echion::cpython {
namespace {

constexpr std::string_view kTasksModule = "asyncio.tasks";
constexpr std::string_view kCModule = "_asyncio";
// From a task to the one that waits for it: a future for each construct on the way.
constexpr int kMaxDepth = 8;
// Callbacks that are looked at for one task.
constexpr std::size_t kMaxCallbacks = 256;
constexpr std::size_t kMaxNameBytes = 64;
constexpr std::size_t kMaxTaskBytes = 256;
// Variables of a function of asyncio's own.
constexpr std::size_t kMaxNames = 64;
// Where tasks are, in the order in which they are visited.
constexpr std::size_t kGlobals = 3;
constexpr std::size_t kWords = 40;  // of the C module's state
constexpr std::size_t kThreadList = 0;
constexpr std::size_t kFirstGlobal = 1;
constexpr std::size_t kFirstWord = kFirstGlobal + kGlobals;
constexpr std::size_t kInterpreterList = kFirstWord + kWords;
// Of a collections.deque (Modules/_collectionsmodule.c): items in a block, behind a link.
constexpr std::size_t kDequeBlock = 64;

// What asyncio hangs onto what is waited for, and where that leads. `variable`: of the closure.
struct Construct {
    std::string_view function;  // qualname
    std::string_view variable;
    bool is_queue;  // of whom getters wait; else a future
};
// Source: Lib/asyncio/tasks.py, 3.8 to 3.15.
constexpr Construct kConstructs[] = {
    {"gather.<locals>._done_callback", "outer", false},
    {"_gather.<locals>._done_callback", "outer", false},
    {"shield.<locals>._inner_done_callback", "outer", false},
    {"_wait.<locals>._on_completion", "waiter", false},
    {"as_completed.<locals>._on_completion", "done", true},
};

std::string_view read_text(ObjectReader& objects, Address name, std::span<char> into) {
    const auto text = objects.read_unicode(name, into);
    return text && !text->truncated ? text->utf8 : std::string_view();
}

std::string_view read_qualname(ObjectReader& objects, Address function, std::span<char> into) {
    return read_text(objects, read_word(objects, function + at(objects.layout().function.qualname)),
                     into);
}

/// The value of a free variable of a function; null: it has none of that name.
Address find_free_variable(ObjectReader& objects, Address function, std::string_view name) {
    const Layout& layout = objects.layout();
    const Address code = read_word(objects, function + at(layout.function.code));
    const Address closure = read_word(objects, function + at(layout.function.closure));
    if (!is_object_address(code) || !is_object_address(closure)) {
        return {};
    }
    std::array<Address, kMaxNames> names;
    std::array<Address, kMaxNames> cells;
    const bool is_apart = has(layout.code.freevars);
    const auto name_count = read_tuple(
        objects,
        read_word(objects,
                  code + at(is_apart ? layout.code.freevars : layout.code.localsplusnames)),
        names);
    const auto cell_count = read_tuple(objects, closure, cells);
    // In either version the free variables are the last, in the order of the closure's cells.
    if (!name_count || !cell_count || *name_count > names.size() || *cell_count > *name_count) {
        return {};
    }
    std::array<char, kMaxNameBytes> text;
    for (std::size_t i = 0; i < *cell_count; ++i) {
        const Address candidate = names[*name_count - *cell_count + i];
        if (read_text(objects, candidate, text) == name) {
            return is_object_address(cells[i])
                       ? read_word(objects, cells[i] + at(layout.cell.contents))
                       : Address();
        }
    }
    return {};
}

}  // namespace

void Asyncio::forget() {
    kinds_.forget();
    tasks_module_ = Address();
    c_module_ = Address();
    forget_classes();
}

void Asyncio::begin_look() {
    kinds_.forget_heap_types();
    forget_classes();
}

void Asyncio::forget_classes() {
    for (AttributeFinder* finder : {&data_, &loop_, &coro_, &name_, &fut_waiter_, &callbacks_,
                                    &on_completed_fut_, &done_, &getters_}) {
        finder->forget();
    }
}

Status Asyncio::find(ObjectReader& objects, Address modules) {
    const auto module = find_module(objects, modules, kTasksModule, &module_hint_);
    if (!module) {
        return tl::unexpected(module.error());
    }
    tasks_module_ = *module;
    const auto c_module = find_module(objects, modules, kCModule, &c_module_hint_);
    c_module_ = c_module ? *c_module : Address();
    return *module ? Status{} : fail(ErrorKind::kNotReady, "asyncio has not been imported");
}

Result<Address> Asyncio::find_current_tasks(ObjectReader& objects, Address modules) {
    if (auto status = find(objects, modules); !status) {
        return tl::unexpected(status.error());
    }
    return find_global(objects, tasks_module_, "_current_tasks", &current_hint_);
}

std::string_view Asyncio::read_name(ObjectReader& objects, Address name, std::span<char> into) {
    if (const auto text = objects.read_unicode(name, into)) {
        return text->utf8;
    }
    // An automatic one is put together when it is asked for.
    constexpr std::string_view kPrefix = "Task-";
    const auto number = objects.read_unsigned(name);
    if (!number || into.size() < kPrefix.size()) {
        return {};
    }
    std::memcpy(into.data(), kPrefix.data(), kPrefix.size());
    const auto end =
        std::to_chars(into.data() + kPrefix.size(), into.data() + into.size(), *number);
    return {into.data(), static_cast<std::size_t>(end.ptr - into.data())};
}

Result<Address> Asyncio::read_running_loop(ObjectReader& objects, Address thread_state) {
    const Layout& layout = objects.layout();
    if (has(layout.thread_state.asyncio_running_loop)) {
        return objects.memory().read_pointer(thread_state +
                                             at(layout.thread_state.asyncio_running_loop));
    }
    const auto dict = objects.memory().read_pointer(thread_state + at(layout.thread_state.dict));
    if (!dict || !*dict) {
        return dict;
    }
    const auto view = DictView::read(objects, *dict);
    if (!view) {
        return tl::unexpected(view.error());
    }
    const auto value = view->find(objects, "__asyncio_running_event_loop__");
    if (!value || !*value) {
        return value;
    }
    // Up to 3.11 a holder of the loop and of the process's number, or of None.
    const auto type = objects.read_type_of(*value);
    const Address type_name =
        type ? read_word(objects, *type + at(layout.type.tp_name)) : Address();
    std::array<char, 32> into;
    const auto name = type_name ? read_c_string(objects.memory(), type_name, into)
                                : Result<std::string_view>(std::string_view());
    if (name && *name == "_RunningLoopHolder") {
        return objects.memory().read_pointer(*value + at(layout.object.size));
    }
    return value;
}

Status Asyncio::visit_weak_set(ObjectReader& objects, Address weak_set, SetCursor& cursor,
                               FunctionRef<bool(Address)> visit) {
    const auto data = find_attribute(objects, data_, weak_set);
    if (!data || kinds_.find(objects, *data) != TypeKind::kSet) {
        return fail(ErrorKind::kInvalid, "read a WeakSet");
    }
    const std::size_t object_at = at(objects.layout().weak_reference.object);
    return visit_set(objects, *data, kMaxSlots, cursor, [&](Address reference) {
        const Address object = read_word(objects, reference + object_at);
        return !object || visit(object);
    });
}

Status Asyncio::visit_list(ObjectReader& objects, Address head, TaskCursor& cursor,
                           FunctionRef<bool(Address)> visit) {
    const std::size_t node_at = at(objects.layout().task.node);
    Address node = read_word(objects, head);
    if (!node) {
        return {};  // an interpreter or a thread that has not got its list yet
    }
    // Behind the newest of those visited last that is still in the list.
    for (const Address visited : cursor.nodes) {
        const Address next = visited ? read_word(objects, visited) : Address();
        if (next && read_word(objects, next + sizeof(void*)) == visited) {
            node = next;
            break;
        }
    }
    for (std::size_t i = 0; node && node != head; ++i) {
        if (i == kMaxTasks || !is_object_address(node)) {
            return fail(i == kMaxTasks ? ErrorKind::kBoundExceeded : ErrorKind::kInvalid,
                        "walk a list of tasks");
        }
        std::copy_backward(cursor.nodes.begin(), cursor.nodes.end() - 1, cursor.nodes.end());
        cursor.nodes[0] = node;
        if (!visit(node - node_at)) {
            return {};
        }
        node = read_word(objects, node);
    }
    return node == head ? Status{} : fail(ErrorKind::kUnreadable, "walk a list of tasks");
}

Status Asyncio::visit_global(ObjectReader& objects, std::size_t number, SetCursor& cursor,
                             FunctionRef<bool(Address)> visit) {
    struct Global {
        std::string_view name;
        FindHint* hint;
        bool is_weak;
    };
    // Those that a version does not have are not found. In 3.14 and later they are of tasks that
    // are written in Python.
    const Global globals[kGlobals] = {{"_all_tasks", &all_hint_, true},
                                      {"_scheduled_tasks", &scheduled_hint_, true},
                                      {"_eager_tasks", &eager_hint_, false}};
    const Global& global = globals[number];
    const auto value = find_global(objects, tasks_module_, global.name, global.hint);
    if (!value || !*value) {
        return {};
    }
    return global.is_weak ? visit_weak_set(objects, *value, cursor, visit)
                          : visit_set(objects, *value, kMaxSlots, cursor, visit);
}

/// From 3.14 on the sets of strangers' tasks are in the state of the C module alone: a WeakSet, and
/// a set of eager ones, somewhere among its first words (asyncio_state in
/// Modules/_asynciomodule.c).
Status Asyncio::visit_c_set(ObjectReader& objects, std::size_t word, SetCursor& cursor,
                            FunctionRef<bool(Address)> visit) {
    const Address state = c_module_
                              ? read_word(objects, c_module_ + at(objects.layout().module.md_state))
                              : Address();
    const Address object = state ? read_word(objects, state + word * sizeof(void*)) : Address();
    const TypeKind kind =
        is_object_address(object) ? kinds_.find(objects, object) : TypeKind::kOther;
    if (kind == TypeKind::kSet) {
        (void)visit_set(objects, object, kMaxSlots, cursor, visit);
    } else if (kind == TypeKind::kWeakSet) {
        (void)visit_weak_set(objects, object, cursor, visit);
    }
    return {};
}

Status Asyncio::visit_source(ObjectReader& objects, Address interpreter, Address thread_state,
                             TaskCursor& cursor, FunctionRef<bool(Address)> visit) {
    const Offset of_thread = objects.layout().thread_state.asyncio_tasks_head;
    const Offset of_interpreter = objects.layout().interpreter.asyncio_tasks_head;
    const std::size_t source = cursor.source;
    if (source == kThreadList) {
        return thread_state && has(of_thread)
                   ? visit_list(objects, thread_state + at(of_thread), cursor, visit)
                   : Status{};
    }
    if (!interpreter) {
        return {};
    }
    if (source < kFirstWord) {
        return visit_global(objects, source - kFirstGlobal, cursor.slot, visit);
    }
    if (!has(of_interpreter)) {
        return {};
    }
    return source < kInterpreterList
               ? visit_c_set(objects, source - kFirstWord, cursor.slot, visit)
               : visit_list(objects, interpreter + at(of_interpreter), cursor, visit);
}

Status Asyncio::visit_tasks(ObjectReader& objects, Address interpreter, Address thread_state,
                            TaskCursor& cursor, FunctionRef<bool(Address)> visit) {
    Status outcome;
    bool goes_on = true;
    const auto note = [&](Address task) { return goes_on = visit(task); };
    while (!cursor.is_done) {
        if (auto status = visit_source(objects, interpreter, thread_state, cursor, note); !status) {
            outcome = status;
        }
        if (!goes_on) {
            break;
        }
        cursor.is_done = cursor.source == kInterpreterList;
        ++cursor.source;
        cursor.slot = {};
        cursor.nodes = {};
    }
    return outcome;
}

Status Asyncio::visit_tasks(ObjectReader& objects, Address interpreter,
                            FunctionRef<bool(Address)> visit) {
    TaskCursor cursor;
    return visit_tasks(objects, interpreter, {}, cursor, visit);
}

Status Asyncio::visit_tasks_of_thread(ObjectReader& objects, Address thread_state,
                                      FunctionRef<bool(Address)> visit) {
    TaskCursor cursor;
    return visit_tasks(objects, {}, thread_state, cursor, visit);
}

Result<Address> Asyncio::find_attribute(ObjectReader& objects, AttributeFinder& finder,
                                        Address object) {
    return is_object_address(object) ? finder.find(objects, object)
                                     : fail(ErrorKind::kInvalid, "read an attribute: no object");
}

Result<AsyncioTask> Asyncio::read_task(ObjectReader& objects, Address task) {
    const TaskLayout& fields = objects.layout().task;
    AsyncioTask out;
    const TypeKind kind = kinds_.find(objects, task);
    if (kind == TypeKind::kTask || kind == TypeKind::kFuture) {
        const std::size_t size = at(kind == TypeKind::kTask ? fields.size : fields.future_size);
        std::array<std::byte, kMaxTaskBytes> copy;
        if (size > copy.size()) {
            return fail(ErrorKind::kInvalid, "read a task: the layout");
        }
        if (auto status = objects.memory().read_bytes(task, copy.data(), size); !status) {
            return tl::unexpected(status.error());
        }
        out.loop = load_address(copy.data(), at(fields.loop));
        out.is_done = load<std::int32_t>(copy.data(), at(fields.state)) != 0;
        if (kind == TypeKind::kTask) {
            out.coro = load_address(copy.data(), at(fields.coro));
            out.name = load_address(copy.data(), at(fields.name));
            out.fut_waiter = load_address(copy.data(), at(fields.fut_waiter));
            return out;
        }
    }
    // What is in Python: asyncio's own tasks, where it has not got the others, and strangers'.
    const auto coro = find_attribute(objects, coro_, task);
    if (!coro) {
        return tl::unexpected(coro.error());
    }
    if (!*coro) {
        return fail(ErrorKind::kInvalid, "read a task: it has no coroutine");
    }
    const auto read = [&](AttributeFinder& finder) {
        const auto value = find_attribute(objects, finder, task);
        return value ? *value : Address();
    };
    out.coro = *coro;
    if (!out.loop) {
        out.loop = read(loop_);
    }
    out.name = read(name_);
    out.fut_waiter = read(fut_waiter_);
    return out;
}

bool Asyncio::visit_waiters(ObjectReader& objects, Address future,
                            FunctionRef<bool(Address)> visit) {
    Search search{visit, kMaxCallbacks};
    search_future(objects, future, 0, search);
    return search.is_whole;
}

void Asyncio::search_future(ObjectReader& objects, Address future, int depth, Search& search) {
    if (depth == kMaxDepth) {
        search.is_whole = false;
        return;
    }
    const TypeKind kind = kinds_.find(objects, future);
    Address callbacks;
    if (kind == TypeKind::kTask || kind == TypeKind::kFuture) {
        const TaskLayout& fields = objects.layout().task;
        const Address first = read_word(objects, future + at(fields.callback0));
        if (first && search.take_step()) {
            search_callback(objects, first, depth, search);
        }
        callbacks = read_word(objects, future + at(fields.callbacks));
    } else if (const auto found = find_attribute(objects, callbacks_, future)) {
        callbacks = *found;
    }
    if (!callbacks || search.is_over || kinds_.find(objects, callbacks) != TypeKind::kList) {
        return;
    }
    // Each a tuple: the callback and its context.
    std::array<Address, kMaxCallbacks> tuples;
    const auto count = read_list(objects, callbacks, tuples);
    if (!count) {
        search.is_whole = false;
        return;
    }
    search.is_whole = search.is_whole && *count <= tuples.size();
    for (std::size_t i = 0; i < std::min(*count, tuples.size()) && !search.is_over; ++i) {
        if (!search.take_step()) {
            return;
        }
        const Address callback =
            is_object_address(tuples[i])
                ? read_word(objects, tuples[i] + at(objects.layout().tuple.items))
                : Address();
        if (callback) {
            search_callback(objects, callback, depth, search);
        }
    }
}

void Asyncio::search_callback(ObjectReader& objects, Address callback, int depth, Search& search) {
    const Layout& layout = objects.layout();
    const auto found = [&](Address task) { search.is_over = task && !search.visit(task); };
    std::array<char, kMaxNameBytes> text{};
    switch (kinds_.find(objects, callback)) {
        case TypeKind::kTaskWakeup:
            found(read_word(objects, callback + at(layout.object.size)));
            break;
        case TypeKind::kBuiltin: {
            const Address definition = read_word(objects, callback + at(layout.builtin.definition));
            const Address name = read_word(objects, definition);
            constexpr std::string_view kWakeup = "task_wakeup";
            if (name && objects.memory().read_bytes(name, text.data(), kWakeup.size() + 1) &&
                std::string_view(text.data()) == kWakeup) {
                found(read_word(objects, callback + at(layout.builtin.self)));
            }
            break;
        }
        case TypeKind::kMethod:
            search_method(objects, callback, depth, search);
            break;
        case TypeKind::kFunction:
            search_function(objects, callback, depth, search);
            break;
        case TypeKind::kPartial: {
            // functools.partial(_release_waiter, waiter): of wait_for(), up to 3.11. The function
            // and its arguments are the first fields (Modules/_functoolsmodule.c).
            const Address function = read_word(objects, callback + at(layout.object.size));
            const Address arguments =
                read_word(objects, callback + at(layout.object.size) + sizeof(void*));
            if (kinds_.find(objects, function) == TypeKind::kFunction &&
                read_qualname(objects, function, text) == "_release_waiter" &&
                is_object_address(arguments)) {
                search_future(objects, read_word(objects, arguments + at(layout.tuple.items)),
                              depth + 1, search);
            }
            break;
        }
        default:
            break;  // the application's own
    }
}

void Asyncio::search_function(ObjectReader& objects, Address function, int depth, Search& search) {
    std::array<char, kMaxNameBytes> text;
    const std::string_view name = read_qualname(objects, function, text);
    for (const Construct& construct : kConstructs) {
        if (name != construct.function) {
            continue;
        }
        const Address value = find_free_variable(objects, function, construct.variable);
        if (construct.is_queue) {
            search_queue(objects, value, depth, search);
        } else if (value) {
            search_future(objects, value, depth + 1, search);
        }
        return;
    }
}

void Asyncio::search_method(ObjectReader& objects, Address method, int depth, Search& search) {
    const MethodLayout& fields = objects.layout().method;
    const Address function = read_word(objects, method + at(fields.function));
    const Address self = read_word(objects, method + at(fields.self));
    if (kinds_.find(objects, function) != TypeKind::kFunction || !self) {
        return;
    }
    std::array<char, kMaxNameBytes> text;
    const std::string_view name = read_qualname(objects, function, text);
    if (name == "TaskGroup._on_task_done") {
        // Null or None while the group's owner does something else than to wait for its tasks.
        if (const auto future = find_attribute(objects, on_completed_fut_, self);
            future && *future) {
            search_future(objects, *future, depth + 1, search);
        }
    } else if (name == "_AsCompletedIterator._handle_completion") {
        if (const auto queue = find_attribute(objects, done_, self)) {
            search_queue(objects, *queue, depth, search);
        }
    } else if (name.ends_with(".__wakeup")) {
        search.is_over = !search.visit(self);  // of a task that is written in Python
    }
}

/// Those that wait for an asyncio.Queue: the futures in its deque `_getters`, of the first block.
void Asyncio::search_queue(ObjectReader& objects, Address queue, int depth, Search& search) {
    const auto getters = find_attribute(objects, getters_, queue);
    if (!getters || !is_object_address(*getters)) {
        return;
    }
    const Offset size = objects.layout().object.ob_size;
    MemoryReader& memory = objects.memory();
    const auto count = memory.read_value<std::intptr_t>(*getters + at(size));
    const Address block = read_word(objects, *getters + at(size) + sizeof(void*));
    const auto first = memory.read_value<std::intptr_t>(*getters + at(size) + 3 * sizeof(void*));
    if (!count || !first || !is_object_address(block) || *first < 0 || *count < 0) {
        return;
    }
    std::size_t left = static_cast<std::size_t>(*count);
    for (auto i = static_cast<std::size_t>(*first); i < kDequeBlock && left-- > 0; ++i) {
        const Address future = read_word(objects, block + (i + 1) * sizeof(void*));
        if (search.is_over || !search.take_step()) {
            return;
        }
        search_future(objects, future, depth + 1, search);
    }
}

}  // namespace echion::cpython
