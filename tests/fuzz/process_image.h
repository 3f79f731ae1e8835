#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "cpython/runtime_view.h"
#include "fake_objects.h"
#include "fuzz_support.h"

namespace echion::fuzz {

constexpr std::uintptr_t kImageBase = 0x10000;  // where TestMemory begins to allocate

/// The memory of a process that runs Python, as small as it can be: one interpreter, two threads
/// with names, a stack of three frames each, one of them a generator's.
struct ProcessImage {
    std::vector<std::uint8_t> bytes;
    cpython::RuntimeView view;
    Address interpreter;
    Address gil;
    std::vector<Address> threads;
    std::vector<Address> frames;  // newest first, of the first thread
    std::vector<Address> codes;
};

/// Builds one, as the version of `layout` keeps it.
class ProcessImageBuilder {
  public:
    explicit ProcessImageBuilder(const cpython::Layout& layout)
        : layout_(layout), make_(memory_, layout) {}

    ProcessImage build() {
        ProcessImage image;
        const Address runtime = allocate(layout_.runtime.size + kMostDebugOffsets);
        const Address interpreter = allocate(layout_.interpreter.size);
        image.interpreter = interpreter;
        code_type_ = make_.make_type(0);
        image.view = {runtime, code_type_, {3, layout_.minor, 1}, &layout_};
        image.gil = cpython::has(layout_.interpreter.ceval_gil)
                        ? allocate(layout_.gil.size)
                        : at(runtime, layout_.runtime.ceval_gil);
        put(interpreter, layout_.interpreter.ceval_gil, image.gil);
        put(runtime, layout_.runtime.interpreters_head, interpreter);
        put(runtime, layout_.runtime.interpreters_main, interpreter);
        memory_.write(at(runtime, layout_.runtime.initialized), std::int32_t{1});
        put(runtime, layout_.runtime.main_thread, Address(kFirstThreadId));
        make_stacks(image);
        make_threads(image);
        memory_.write(at(image.gil, layout_.gil.locked), std::int32_t{1});
        put(image.gil, layout_.gil.last_holder, image.threads.front());
        make_modules(image);

        const Address end = memory_.allocate(16);
        image.bytes.resize(end.value() - kImageBase);
        for (std::size_t i = 0; i < image.bytes.size(); ++i) {
            (void)memory_.read_bytes(Address(kImageBase + i), &image.bytes[i], 1);  // gaps: zero
        }
        return image;
    }

  private:
    static constexpr std::size_t kMostDebugOffsets = 1024;
    static constexpr std::uintptr_t kFirstThreadId = 0x7f0000001000;
    static constexpr std::uintptr_t kSecondThreadId = 0x7f0000002000;

    Address allocate(std::size_t size) { return memory_.allocate(size, 16); }
    static Address at(Address base, cpython::Offset offset) {
        return base + static_cast<std::size_t>(offset);
    }
    void put(Address base, cpython::Offset offset, Address value) {
        if (cpython::has(offset)) {
            memory_.write(at(base, offset), value);
        }
    }

    Address make_code(const char* name) {
        const cpython::CodeLayout& fields = layout_.code;
        const Address code = allocate(static_cast<std::size_t>(fields.size) + 64);
        // Its count of references.
        if (cpython::has(layout_.object.ob_ref_local)) {
            memory_.write(at(code, layout_.object.ob_ref_local), std::uint32_t{1});
        } else {
            memory_.write(code, std::uintptr_t{1});
        }
        memory_.write(code + layout_.object.ob_type, code_type_);
        put(code, fields.filename, make_.make_str("/srv/app.py"));
        put(code, fields.name, make_.make_str(name));
        put(code, fields.qualname, make_.make_str(name));
        put(code, fields.linetable, make_.make_bytes("\x80\x01\x02\x03"));
        memory_.write(at(code, fields.firstlineno), std::int32_t{12});
        if (cpython::has(fields.tlbc)) {
            memory_.write(at(code, layout_.object.ob_size), std::uintptr_t{32});  // code units
        }
        return code;
    }

    /// Gives the code object copies of its bytecode, and returns the one at `index`.
    Address make_bytecode(Address code, std::size_t index) {
        const Address array = allocate(at(Address(), layout_.code.tlbc_entries).value() +
                                       (index + 1) * sizeof(void*));
        const Address bytecode = allocate(64);
        put(code, layout_.code.tlbc, array);
        memory_.write(array, std::uintptr_t{index + 1});
        put(array, layout_.code.tlbc_entries, at(code, layout_.code.code_adaptive));
        memory_.write(at(array, layout_.code.tlbc_entries) + index * sizeof(void*), bytecode);
        return bytecode;
    }

    void make_stacks(ProcessImage& image) {
        for (const char* name : {"work", "main", "<module>"}) {
            image.codes.push_back(make_code(name));
        }
        Address previous;
        for (std::size_t i = image.codes.size(); i-- > 0;) {
            const cpython::FrameLayout& fields = layout_.frame;
            const Address frame = allocate(fields.size);
            put(frame, fields.previous, previous);
            put(frame, fields.code, image.codes[i]);
            if (fields.instruction_kind == cpython::InstructionKind::kCodePointer) {
                put(frame, fields.instruction, at(image.codes[i], layout_.code.code_adaptive));
            }
            if (cpython::has(fields.tlbc_index) && i == 0) {
                put(frame, fields.instruction, make_bytecode(image.codes[i], 1));
                memory_.write(at(frame, fields.tlbc_index), std::int32_t{1});
            }
            if (cpython::has(fields.owner) && i == 1) {
                memory_.write(at(frame, fields.owner),
                              static_cast<std::int8_t>(fields.owner_generator));
            }
            image.frames.insert(image.frames.begin(), frame);
            previous = frame;
        }
    }

    void make_threads(ProcessImage& image) {
        const cpython::ThreadStateLayout& fields = layout_.thread_state;
        const std::uintptr_t ids[] = {kFirstThreadId, kSecondThreadId};
        for (std::size_t i = 0; i < std::size(ids); ++i) {
            const Address thread = allocate(fields.size);
            put(thread, fields.interp, image.interpreter);
            put(thread, fields.frame, image.frames[i]);
            if (cpython::has(fields.cframe)) {
                const Address cframe = allocate(64);
                put(cframe, layout_.cframe.current_frame, image.frames[i]);
                put(thread, fields.cframe, cframe);
            }
            put(thread, fields.thread_id, Address(ids[i]));
            memory_.write(at(thread, fields.id), static_cast<std::uint64_t>(i + 1));
            if (i > 0) {
                put(image.threads.back(), fields.next, thread);
                put(thread, fields.prev, image.threads.back());
            }
            image.threads.push_back(thread);
        }
        put(image.interpreter, layout_.interpreter.threads_head, image.threads.front());
    }

    void make_modules(const ProcessImage& image) {
        const Address keys = make_.make_keys({{make_.make_str("_name"), Address()}}, true, true);
        const Address type = make_.make_class(keys);
        const auto thread = [&](const char* name) {
            return make_.make_instance(type, keys, {make_.make_str(name)});
        };
        const Address active =
            make_.make_dict({{make_.make_int(kFirstThreadId), thread("MainThread")},
                             {make_.make_int(kSecondThreadId), thread("worker\x1b[2J")}},
                            false);
        const Address module =
            make_.make_module(make_.make_dict({{make_.make_str("_active"), active}}));
        put(image.interpreter, layout_.interpreter.modules,
            make_.make_dict({{make_.make_str("threading"), module}}));
    }

    const cpython::Layout& layout_;
    test::TestMemory memory_;
    test::FakeObjects make_;
    Address code_type_;
};

/// The row that an input's first byte chooses: from kFreeThreaded on one of a free-threaded build.
inline const cpython::Layout& pick_row(std::uint8_t byte) {
    constexpr std::uint8_t kFreeThreaded = 0xf0;
    const auto rows =
        byte < kFreeThreaded ? cpython::known_layouts() : cpython::free_threaded_layouts();
    return rows[byte % kFreeThreaded % rows.size()];
}

/// That of a row, made once.
inline const ProcessImage& process_image_of(const cpython::Layout& row) {
    static std::map<const cpython::Layout*, ProcessImage> images;
    auto image = images.find(&row);
    if (image == images.end()) {
        image = images.emplace(&row, ProcessImageBuilder(row).build()).first;
    }
    return image->second;
}

}  // namespace echion::fuzz
