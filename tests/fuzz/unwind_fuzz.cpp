// Unwinding by tables and over a stack that the target has written. This process stands for it,
// with one more object mapped, whose tables are the input's, and a stack that only the reader
// knows.
//
//      input:  u16 instruction and u16 stack pointer (from the start of object and stack),
//              u64 frame pointer, u16 size of the tables, the tables (.eh_frame_hdr first, at
//              kTables of the object), then the stack

#include <elf.h>
#include <link.h>
#include <unistd.h>

#include <cstdint>
#include <optional>

#include "fuzz_support.h"
#include "inject/arch.h"
#include "inject/target_code.h"
#include "inject/unwinder.h"
#include "mapped_object.h"
#include "platform/process_reader.h"

namespace {

using namespace echion;
using fuzz::MappedObject;
using fuzz::require;

constexpr std::size_t kTables = 0x1000;
constexpr std::uintptr_t kStack = 0x7e0000000000;
constexpr std::size_t kStackBytes = 0x2000;
constexpr std::size_t kMaxFrames = 64;

/// Reads object and stack from local copies, and nothing else once `is_closed`.
class TargetReader final : public MemoryReader {
  public:
    TargetReader(MappedObject& object, std::span<const std::uint8_t> stack)
        : object_(object.base(), object.bytes()), stack_(kStack, stack) {}

    std::size_t read(std::span<const ReadRequest> requests) noexcept override {
        for (std::size_t i = 0; i < requests.size(); ++i) {
            const auto one = requests.subspan(i, 1);
            if (object_.read(one) != 1 && stack_.read(one) != 1) {
                return i;
            }
        }
        return requests.size();
    }

    [[nodiscard]] std::size_t calls() const { return object_.calls; }

  private:
    fuzz::ImageReader object_;
    fuzz::ImageReader stack_;
};

/// An object of one segment that may be executed, with an unwind table.
void write_headers(MappedObject& object) {
    ElfW(Ehdr) header{};
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = sizeof(void*) == 8 ? ELFCLASS64 : ELFCLASS32;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_type = ET_DYN;
    header.e_machine = EM_X86_64;
    header.e_phoff = sizeof(header);
    header.e_phentsize = sizeof(ElfW(Phdr));
    header.e_phnum = 2;
    ElfW(Phdr) segments[2]{};
    segments[0].p_type = PT_LOAD;
    segments[0].p_flags = PF_R | PF_X;
    segments[0].p_memsz = MappedObject::kBytes;
    segments[1].p_type = PT_GNU_EH_FRAME;
    segments[1].p_vaddr = kTables;
    segments[1].p_memsz = MappedObject::kBytes - kTables;
    std::memcpy(object.bytes().data(), &header, sizeof(header));
    std::memcpy(object.bytes().data() + sizeof(header), segments, sizeof(segments));
}

struct Target {
    MappedObject object;
    std::optional<inject::TargetCode> code;

    Target() {
        write_headers(object);
        ProcessReader reader;
        require(reader.open(getpid(), Address()).has_value());
        auto read = inject::TargetCode::read(reader, getpid());
        require(read.has_value());
        code.emplace(std::move(*read));
        require(code->find_module(Address(object.base())) != nullptr);
    }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static Target target;
    fuzz::Input input(data, size);
    const auto instruction = input.take<std::uint16_t>();
    const auto stack_pointer = input.take<std::uint16_t>();
    const auto frame_pointer = input.take<std::uint64_t>();
    const std::size_t table_bytes = input.take<std::uint16_t>();
    target.object.fill(kTables, input.take_bytes(table_bytes));
    std::vector<std::uint8_t> stack(input.rest().begin(), input.rest().end());
    stack.resize(kStackBytes);
    // Words that look like one are made the addresses of code, so that stacks have more than a
    // frame.
    for (std::size_t at = 0; at + 8 <= stack.size(); at += 8) {
        std::uint64_t word = 0;
        std::memcpy(&word, stack.data() + at, sizeof(word));
        if (word >> 48U == 0xc0deU) {
            word = target.object.base() + (word & 0xffffU);
        } else if (word >> 48U == 0x57acU) {
            word = kStack + (word & 0xffffU);
        }
        std::memcpy(stack.data() + at, &word, sizeof(word));
    }
    TargetReader reader(target.object, stack);
    inject::Unwinder unwinder(reader, *target.code);
    inject::arch::Registers registers =
        inject::arch::make_place(Address(target.object.base() + instruction),
                                 Address(kStack + stack_pointer % kStackBytes / 8 * 8));
    registers.rbp =
        frame_pointer >> 48U == 0x57acU ? kStack + (frame_pointer & 0xffffU) : frame_pointer;
    std::size_t visited = 0;
    (void)unwinder.walk(registers, kMaxFrames, [&](const inject::NativeFrame&) {
        ++visited;
        return true;
    });
    require(visited <= kMaxFrames);
    return 0;
}
