// Walks over frames, and the batches of pages that they are copied in, on memory that makes no
// sense. The input writes into a sane image, then says what is done with it.
//
//      input:  u8 version, u8 number of patches (fuzz_support.h), the patches,
//              then steps of 8 bytes: u8 what, u8 unused, u16 number, u32 address in the image

#include <array>
#include <cstdint>

#include "cpython/frame_walker.h"
#include "cpython/layout.h"
#include "fuzz_support.h"
#include "memory/page_batch.h"
#include "process_image.h"

namespace {

using namespace echion;
using namespace echion::cpython;
using fuzz::require;

constexpr std::size_t kArenaBytes = std::size_t{32} << 10;
constexpr std::size_t kMostSteps = 64;

/// A copy lies in one piece that may be read.
void touch_copy(const std::byte* copy, std::size_t size_bytes) {
    static volatile std::uint8_t sum;
    for (std::size_t i = 0; copy != nullptr && i < size_bytes; ++i) {
        sum = static_cast<std::uint8_t>(sum + static_cast<std::uint8_t>(copy[i]));
    }
}

class Stack {
  public:
    Stack(const Layout& layout, MemoryReader& reader, PageBatch& batch)
        : layout_(layout), reader_(reader), batch_(batch) {
        batch_.reset();
        static PageSet pages;
        pages_ = &pages;
        pages_->clear();
    }

    Walk walk(Address head, std::size_t room, Address skipped) {
        static std::array<RawFrame, 256> frames;
        FrameWalker walker(layout_, reader_, batch_);
        walker.skip_code(skipped);
        const Walk result =
            walker.walk(head, *pages_, ++number_, std::span(frames).first(room % frames.size()));
        require(result.count <= room % frames.size());
        return result;
    }

    void step(unsigned what, std::size_t number, Address address) {
        switch (what % 10) {
            case 0:
                (void)walk(address, number, {});
                break;
            case 1:
                batch_.reset();
                break;
            case 2:
                last_ = batch_.add(address, number);
                break;
            case 3:
                (void)batch_.add_pages(*pages_);
                break;
            case 4:
                require(batch_.run(reader_) <= PageBatch::kMaxRequests);
                break;
            case 5:
                touch_copy(batch_.copy(last_), 1);
                break;
            case 6:
                touch_copy(batch_.find(address, number), number);
                break;
            case 7:
                touch_copy(batch_.fetch(reader_, address, number), number);
                break;
            case 8:
                batch_.erase_unread(*pages_);
                break;
            default:
                pages_->expire(number_, static_cast<std::uint32_t>(number % 4));
                break;
        }
        for (std::size_t i = 0; i < pages_->size(); ++i) {
            require(pages_->from(i) <= pages_->end(i));
            require(pages_->end(i) - pages_->page(i) <= kPageBytes);
            require(i == 0 || pages_->page(i - 1) < pages_->page(i));
        }
        require(batch_.free_bytes() <= kArenaBytes + kPageBytes);
    }

  private:
    const Layout& layout_;
    MemoryReader& reader_;
    PageBatch& batch_;
    PageSet* pages_;
    PageBatch::Handle last_ = PageBatch::kNone;
    std::uint32_t number_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) {
        return 0;
    }
    static auto batch = PageBatch::make(kArenaBytes);
    require(batch.has_value());
    fuzz::Input input(data, size);
    const Layout& row = fuzz::pick_row(input.take<std::uint8_t>());
    const fuzz::ProcessImage& sane = fuzz::process_image_of(row);
    std::vector<std::uint8_t> image = sane.bytes;
    fuzz::apply_patches(image, fuzz::kImageBase, input, input.take<std::uint8_t>());

    // Pages are copied whole: the target's memory begins and ends with them.
    image.resize((image.size() + kPageBytes - 1) / kPageBytes * kPageBytes);
    fuzz::ImageReader reader(fuzz::kImageBase, image);
    Stack stack(row, reader, *batch);
    const Walk first = stack.walk(sane.frames.front(), 100, {});
    require(size > 1 || (first.count == 3 && !first.broken && !first.ends_at_generator));
    (void)stack.walk(sane.frames.front(), 100, sane.codes[1]);
    for (std::size_t steps = 0; !input.is_empty() && steps < kMostSteps; ++steps) {
        const auto what = input.take<std::uint16_t>();
        const std::size_t number = input.take<std::uint16_t>();
        const auto offset = input.take<std::uint32_t>();
        stack.step(what % 256, number,
                   offset == ~0U ? Address(~std::uintptr_t{7})
                                 : Address(fuzz::kImageBase + offset % (image.size() + 64)));
    }
    return 0;
}
