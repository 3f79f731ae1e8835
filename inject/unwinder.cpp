#include "inject/unwinder.h"

#include <libunwind.h>

#include <array>
#include <cstring>
#include <unordered_map>

#include "base/clock.h"
#include "inject/prompt_tracer.h"

// Exported by libunwind for remote unwinders, though declared in none of its headers.
extern "C" int UNW_OBJ(dwarf_search_unwind_table)(unw_addr_space_t, unw_word_t, unw_dyn_info_t*,
                                                  unw_proc_info_t*, int, void*);

namespace echion::inject {
namespace {

constexpr std::size_t kPageBytes = 4096;

// The binary search table of .eh_frame_hdr, in the only encodings that linkers write (LSB core,
// 10.6.2): u8 version = 1, u8 encoding of the pointer to .eh_frame, u8 of the count, u8 of the
// table; i32 pointer, u32 count, then {i32 function, i32 description} relative to the header.
struct TableHeader {
    std::uint8_t version;
    std::uint8_t pointer_encoding;
    std::uint8_t count_encoding;
    std::uint8_t table_encoding;
    std::int32_t pointer;
    std::uint32_t count;
};
constexpr std::uint8_t kUnsigned4 = 0x03;
constexpr std::uint8_t kSigned4RelativeToHeader = 0x3b;
constexpr std::size_t kTableEntryBytes = 8;

}  // namespace

struct Unwinder::Impl {
    using Page = std::array<std::byte, kPageBytes>;

    MemoryReader& reader;
    const TargetCode& code;
    unw_addr_space_t space = nullptr;
    const arch::Registers* registers = nullptr;
    std::unordered_map<std::uintptr_t, Page> constant_pages;  // of mapped objects
    std::unordered_map<std::uintptr_t, Page> stack_pages;     // of the thread, for one walk
    std::size_t step_words = 0;
    std::size_t walk_words = 0;
    std::size_t walk_pages = 0;
    std::int64_t deadline_ns = 0;
    bool is_over = false;  // the walk's budget: from then on every answer is an error

    Impl(MemoryReader& reader_in, const TargetCode& code_in) : reader(reader_in), code(code_in) {}

    void begin_walk(const arch::Registers& walked) {
        registers = &walked;
        stack_pages.clear();
        if (constant_pages.size() > kMaxKeptPages) {
            constant_pages.clear();
        }
        step_words = 0;
        walk_words = 0;
        walk_pages = 0;
        deadline_ns = monotonic_ns() + kMaxWalkNs;
        is_over = false;
    }

    bool read_word(Address address, unw_word_t& value) {
        is_over = is_over || ++step_words > kMaxStepWords || ++walk_words > kMaxWalkWords;
        if (is_over) {
            return false;
        }
        std::array<std::byte, sizeof(value)> bytes;
        std::size_t done = 0;
        while (done < bytes.size()) {
            const std::uintptr_t at = address.value() + done;
            const std::byte* page = find_page(at & ~(kPageBytes - 1));
            if (page == nullptr) {
                return false;
            }
            const std::size_t offset = at & (kPageBytes - 1);
            const std::size_t part = std::min(bytes.size() - done, kPageBytes - offset);
            std::memcpy(bytes.data() + done, page + offset, part);
            done += part;
        }
        std::memcpy(&value, bytes.data(), sizeof(value));
        return true;
    }

    const std::byte* find_page(std::uintptr_t page) {
        const TargetModule* module = code.find_module(Address(page));
        const bool is_constant = module != nullptr && !module->image.data().contains(Address(page));
        auto& pages = is_constant ? constant_pages : stack_pages;
        if (const auto found = pages.find(page); found != pages.end()) {
            return found->second.data();
        }
        is_over = ++walk_pages > kMaxWalkPages || monotonic_ns() > deadline_ns;
        Page copy;
        if (is_over || !reader.read_bytes(Address(page), copy.data(), copy.size())) {
            return nullptr;
        }
        return pages.emplace(page, copy).first->second.data();
    }

    /// The unwind table of the module around `address`; false when it has none that can be used.
    bool find_table(Address address, unw_dyn_info_t& table) {
        const TargetModule* module = code.find_module(address);
        if (module == nullptr || module->image.eh_frame_header().size_bytes < sizeof(TableHeader)) {
            return false;
        }
        const ElfRange place = module->image.eh_frame_header();
        unw_word_t words[2];
        TableHeader header;
        if (!read_word(place.start, words[0]) || !read_word(place.start + 8, words[1])) {
            return false;
        }
        std::memcpy(&header, words, sizeof(header));
        const std::size_t room = (place.size_bytes - sizeof(header)) / kTableEntryBytes;
        if (header.version != 1 || header.count_encoding != kUnsigned4 ||
            header.table_encoding != kSigned4RelativeToHeader || header.count == 0 ||
            header.count > room) {
            return false;
        }
        table = {};
        table.start_ip = module->image.range().start.value();
        table.end_ip = module->image.range().end().value();
        table.format = UNW_INFO_FORMAT_REMOTE_TABLE;
        table.u.rti.segbase = place.start.value();
        table.u.rti.table_data = place.start.value() + sizeof(header);
        table.u.rti.table_len =
            static_cast<unw_word_t>(header.count) * kTableEntryBytes / sizeof(unw_word_t);
        return true;
    }
};

namespace {

// libunwind's way of asking for the target's memory and registers; `argument` is the Impl.
template <typename Impl>
struct Accessors {
    static Impl& impl(void* argument) { return *static_cast<Impl*>(argument); }

    static int find_proc_info(unw_addr_space_t space, unw_word_t ip, unw_proc_info_t* info,
                              int need, void* argument) {
        unw_dyn_info_t table;
        if (impl(argument).is_over || !impl(argument).find_table(Address(ip), table)) {
            return -UNW_ENOINFO;
        }
        return UNW_OBJ(dwarf_search_unwind_table)(space, ip, &table, info, need, argument);
    }

    static void put_unwind_info(unw_addr_space_t, unw_proc_info_t*, void*) {}

    static int get_dyn_info_list_addr(unw_addr_space_t, unw_word_t*, void*) { return -UNW_ENOINFO; }

    static int access_mem(unw_addr_space_t, unw_word_t address, unw_word_t* value, int write,
                          void* argument) {
        if (write != 0) {
            return -UNW_EREADONLYREG;
        }
        return impl(argument).read_word(Address(address), *value) ? 0 : -UNW_EINVAL;
    }

    static int access_reg(unw_addr_space_t, unw_regnum_t number, unw_word_t* value, int write,
                          void* argument) {
        if (write != 0) {
            return -UNW_EREADONLYREG;
        }
        if (impl(argument).is_over) {
            return -UNW_EBADREG;
        }
        return arch::read_dwarf_register(*impl(argument).registers, number, *value) ? 0
                                                                                    : -UNW_EBADREG;
    }

    static int access_fpreg(unw_addr_space_t, unw_regnum_t, unw_fpreg_t*, int, void*) {
        return -UNW_EBADREG;
    }

    static int resume(unw_addr_space_t, unw_cursor_t*, void*) { return -UNW_EINVAL; }

    static int get_proc_name(unw_addr_space_t, unw_word_t, char*, std::size_t, unw_word_t*, void*) {
        return -UNW_ENOINFO;
    }
};

}  // namespace

Unwinder::Unwinder(MemoryReader& reader, const TargetCode& code)
    : impl_(std::make_unique<Impl>(reader, code)) {
    using Access = Accessors<Impl>;
    unw_accessors_t accessors{};
    accessors.find_proc_info = Access::find_proc_info;
    accessors.put_unwind_info = Access::put_unwind_info;
    accessors.get_dyn_info_list_addr = Access::get_dyn_info_list_addr;
    accessors.access_mem = Access::access_mem;
    accessors.access_reg = Access::access_reg;
    accessors.access_fpreg = Access::access_fpreg;
    accessors.resume = Access::resume;
    accessors.get_proc_name = Access::get_proc_name;
    impl_->space = unw_create_addr_space(&accessors, 0);
}

Unwinder::~Unwinder() {
    if (impl_->space != nullptr) {
        unw_destroy_addr_space(impl_->space);
    }
}

bool Unwinder::walk(const arch::Registers& registers, std::size_t max_frames,
                    FunctionRef<bool(const NativeFrame&)> visit) {
    // How long this takes is the target's doing.
    const OrdinaryTurn turn;
    impl_->begin_walk(registers);
    unw_cursor_t cursor;
    if (impl_->space == nullptr || unw_init_remote(&cursor, impl_->space, impl_.get()) != 0) {
        return false;
    }
    for (std::size_t depth = 0; depth < max_frames; ++depth) {
        unw_word_t instruction = 0;
        if (unw_get_reg(&cursor, UNW_REG_IP, &instruction) != 0) {
            return false;
        }
        const NativeFrame frame{Address(instruction), unw_is_signal_frame(&cursor) > 0};
        if (!visit(frame)) {
            return true;
        }
        // Without a table libunwind would guess from the frame pointer.
        unw_dyn_info_t table;
        if (!frame.is_signal && !impl_->find_table(frame.instruction, table)) {
            return false;
        }
        impl_->step_words = 0;
        const int result = unw_step(&cursor);
        if (result <= 0 || impl_->is_over) {
            return result == 0 && !impl_->is_over;
        }
    }
    return true;
}

}  // namespace echion::inject
