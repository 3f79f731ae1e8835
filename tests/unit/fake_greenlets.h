#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "fake_asyncio.h"
#include "test_memory.h"

namespace echion::test {

/// The lists of a garbage collector.
class FakeCollector {
  public:
    static constexpr std::size_t kLists = 4;

    FakeCollector(TestMemory& memory, const cpython::Layout& layout)
        : memory_(memory), layout_(layout) {
        const bool is_in_runtime = cpython::has(layout.runtime.gc_generations);
        const std::size_t generations_at = cpython::at(
            is_in_runtime ? layout.runtime.gc_generations : layout.interpreter.gc_generations);
        collecting = memory.allocate(kBytes) +
                     cpython::at(is_in_runtime ? layout.runtime.gc_collecting
                                               : layout.interpreter.gc_collecting) -
                     generations_at;
        generations = collecting + generations_at -
                      cpython::at(is_in_runtime ? layout.runtime.gc_collecting
                                                : layout.interpreter.gc_collecting);
        runtime = interpreter = generations - generations_at;
        for (std::size_t list = 0; list < kLists; ++list) {
            fill(list, {});
        }
    }

    Address runtime, interpreter, generations, collecting;

    [[nodiscard]] Address head(std::size_t list) const {
        return generations + (list + 1 == kLists ? cpython::at(layout_.gc.permanent)
                                                 : list * cpython::at(layout_.gc.generation_size));
    }
    [[nodiscard]] Address node(Address object) const {
        return object - cpython::at(layout_.gc.head_size);
    }
    /// Makes a list of these objects, each of which has room for its node in front. Bits that are
    /// flags are set.
    void fill(std::size_t list, const std::vector<Address>& objects) {
        Address last = head(list);
        for (const Address object : objects) {
            memory_.write(last, node(object));
            memory_.write(node(object) + sizeof(void*), last + 1);
            last = node(object);
        }
        memory_.write(last, head(list));
        memory_.write(head(list) + sizeof(void*), last);
    }
    /// Room for an object with so many bytes behind its node.
    Address allocate(std::size_t size_bytes) {
        const std::size_t head_size = cpython::at(layout_.gc.head_size);
        return memory_.allocate(head_size + size_bytes) + head_size;
    }

  private:
    static constexpr std::size_t kBytes = 512;

    TestMemory& memory_;
    const cpython::Layout& layout_;
};

/// Builds greenlets in a TestMemory, as one of greenlet's versions keeps them in one of CPython's.
class FakeGreenlets {
  public:
    enum class Kind { kFlat, kWithoutSelf, kWithSelf };  // 1.x; 2.x and 3.0; from 3.1 on

    FakeGreenlets(TestMemory& memory, const cpython::Layout& layout, Kind kind)
        : collector(memory, layout),
          make(memory, layout),
          kind_(kind),
          memory_(memory),
          layout_(layout) {
        const auto words = static_cast<std::intptr_t>(kind == Kind::kFlat ? 17 : 3);
        type = make.type("greenlet.greenlet",
                         layout.object.size + words * static_cast<std::intptr_t>(sizeof(void*)));
        const Address module = make.objects().make_module(
            make.objects().make_dict({{make.objects().make_str("greenlet"), type}}));
        modules = make.objects().make_dict({{make.objects().make_str("greenlet"), module}});
        state = make_state();
    }

    FakeCollector collector;
    FakeAsyncio make;
    Address type, modules, state;

    Address make_state() {
        const Address made = memory_.allocate(1200);
        memory_.write(made + at(layout_.thread_state.dict), make.objects().make_dict({}));
        return made;
    }
    /// The last entry of a thread's stack of exceptions, in its state.
    [[nodiscard]] Address exceptions_of(Address thread_state) const {
        return thread_state + at(layout_.thread_state.exc_state);
    }
    /// Another one above it.
    Address make_exception(Address previous) {
        const Address made = memory_.allocate(at(layout_.exception_item.size));
        memory_.write(made + at(layout_.exception_item.previous), previous);
        return made;
    }

    struct Fields {
        Address parent{}, main{}, top_frame{}, run{}, exceptions{}, dict{};
        Address start{0x1000}, stop{0x2000}, copy{};
        std::uintptr_t saved = 0;
    };
    /// With its node, of the collector's. A main greenlet when `main` is null and so is `run`.
    Address make_greenlet(const Fields& fields, Address of_type = {}) {
        const Address made = collector.allocate(kBytes);
        memory_.write(made + at(layout_.object.ob_type), of_type ? of_type : type);
        write(made, fields);
        return made;
    }
    void write(Address greenlet, const Fields& fields) {
        const bool is_main = !fields.main && !fields.run;
        const Address stop = is_main ? Address(~std::uintptr_t{0}) : fields.stop;
        const Address first = greenlet + at(layout_.object.size);
        if (kind_ == Kind::kFlat) {
            const Address info = fields.run ? fields.run : fields.dict;
            put(first, {fields.start,
                        stop,
                        fields.copy,
                        Address(fields.saved),
                        {},
                        fields.parent,
                        info,
                        fields.top_frame});
            return;
        }
        Address implementation;
        if (const auto known = memory_.read_pointer(first + 2 * sizeof(void*)); known && *known) {
            implementation = *known;
        } else {
            implementation = memory_.allocate(kImplementationBytes);
            memory_.write(first + 2 * sizeof(void*), implementation);
        }
        std::vector<Address> words{Address(0x77)};  // vtable
        if (kind_ == Kind::kWithSelf) {
            words.push_back(greenlet);
        }
        words.push_back(fields.exceptions);
        words.resize(words.size() + at(layout_.exception_item.size) / sizeof(void*) + 2);
        words.insert(words.end(), {fields.start,
                                   stop,
                                   fields.copy,
                                   Address(fields.saved),
                                   {},
                                   {},
                                   fields.top_frame,
                                   Address(1),
                                   Address(2)});
        if (is_main) {
            words.insert(words.end(), {greenlet, thread});
        } else {
            if (kind_ == Kind::kWithoutSelf) {
                words.push_back(greenlet);
            }
            words.insert(words.end(), {fields.main, fields.run, fields.parent});
        }
        put(implementation, words);
    }
    /// greenlet's own state of the thread, which the main greenlets made after it point to.
    Address thread;
    void set_current(Address main, Address current) {
        if (!thread) {
            thread = memory_.allocate(2 * sizeof(void*));
        }
        put(thread, {main, current});
    }

    /// A frame, and from 3.11 on the object that stands for it; returns where a greenlet points to.
    struct Frame {
        Address object, place, code;
    };
    Frame make_frame(Address previous, bool with_code = true) {
        Frame made;
        const cpython::CodeLayout& code = layout_.code;
        made.code = memory_.allocate(at(code.size) + 64);
        made.place = memory_.allocate(512);
        write_frame(made.place, made.code, previous, with_code);
        made.object = made.place;
        if (cpython::has(layout_.frame_object.frame)) {
            made.object = memory_.allocate(64);
            memory_.write(made.object + at(layout_.frame_object.frame), made.place);
            memory_.write(made.place + at(layout_.frame.frame_object), made.object);
        }
        memory_.write(made.object + at(layout_.object.ob_type), make.type("frame"));
        return made;
    }
    void write_frame(Address place, Address code, Address previous, bool with_code) {
        const cpython::FrameLayout& fields = layout_.frame;
        memory_.write(place + at(fields.code), code);
        memory_.write(place + at(fields.previous), previous);
        if (fields.instruction_kind == cpython::InstructionKind::kCodePointer) {
            memory_.write(place + at(fields.instruction), code + at(layout_.code.code_adaptive));
        } else {
            memory_.write(place + at(fields.instruction), std::int32_t{0});
        }
        if (!with_code) {
            memory_.write(place + at(fields.owner),
                          static_cast<std::int8_t>(fields.owner_without_code));
        }
    }

  private:
    static constexpr std::size_t kBytes = 256;
    static constexpr std::size_t kImplementationBytes = 512;

    static std::size_t at(cpython::Offset offset) { return cpython::at(offset); }
    void put(Address to, const std::vector<Address>& words) {
        for (std::size_t i = 0; i < words.size(); ++i) {
            memory_.write(to + i * sizeof(void*), words[i]);
        }
    }

    Kind kind_;
    TestMemory& memory_;
    const cpython::Layout& layout_;
};

}  // namespace echion::test
