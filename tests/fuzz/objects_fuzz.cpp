// The readers of objects on memory that makes no sense: a sane image of a module table, a
// `threading` module, threads of every kind, strings and numbers, as one version keeps them, into
// which the input writes.
//
//      input:  u8 version, then patches (fuzz_support.h)

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "cpython/attributes.h"
#include "cpython/debug_offsets.h"
#include "cpython/dicts.h"
#include "cpython/layout.h"
#include "cpython/objects.h"
#include "cpython/thread_names.h"
#include "fake_objects.h"
#include "fuzz_support.h"
#include "memory/reader.h"

namespace {

using namespace echion;
using namespace echion::cpython;
using fuzz::ImageReader;
using fuzz::is_utf8;
using fuzz::require;

constexpr std::uintptr_t kBase = 0x10000;  // where TestMemory begins to allocate

struct Image {
    std::vector<std::uint8_t> bytes;
    std::vector<Address> roots;  // one of each kind of object
};

Image make_image(const Layout& layout) {
    test::TestMemory memory;
    test::FakeObjects make(memory, layout);
    const Address keys = make.make_keys(
        {{make.make_str("_target"), Address()}, {make.make_str("_name"), Address()}}, true, true);
    const Address type = make.make_class(keys);
    const auto thread = [&](Address name) {
        return make.make_instance(type, keys, {Address(), name});
    };
    const Address wide = make.make_str({0x20ac, 0xd800, 'x'}, 2, false);
    const Address apart = make.make_str_apart({0xe9, 'a'}, 1);
    const Address first = thread(make.make_str("MainThread"));
    const Address with_dict =
        make.make_instance_with_dict(type, make.make_dict({{make.make_str("_name"), wide}}));
    const Address number = make.make_int(0x7f0000001000);
    const Address active = make.make_dict({{number, first},
                                           {make.make_int(0x7f000000), with_dict},
                                           {Address(), Address()},
                                           {make.make_int(5), thread(make.make_str("x"))},
                                           {make.make_int(6), thread(apart)}},
                                          false);
    const Address globals = make.make_dict({{make.make_str("_active"), active}});
    const Address module = make.make_module(globals);
    const Address modules = make.make_dict({{make.make_str("threading"), module}});
    const Address bytes = make.make_bytes("\x80\x01\x02");
    const Address end = memory.allocate(16);

    Image image;
    image.roots = {modules, wide, apart, first, with_dict, number, active, module, bytes};
    image.bytes.resize(end.value() - kBase);
    for (std::size_t i = 0; i < image.bytes.size(); ++i) {
        (void)memory.read_bytes(Address(kBase + i), &image.bytes[i], 1);  // gaps stay zero
    }
    return image;
}

const Image& image_of(std::size_t row) {
    static const std::vector<Image> images = [] {
        std::vector<Image> made;
        for (const Layout& layout : known_layouts()) {
            made.push_back(make_image(layout));
        }
        return made;
    }();
    return images[row];
}

void read_everything(ObjectReader& objects, ThreadNames& names, Address root) {
    std::array<char, 100> text_room;
    if (auto text = objects.read_unicode(root, text_room)) {
        require(text->utf8.size() <= text_room.size() && is_utf8(text->utf8));
    }
    std::array<std::byte, 100> bytes_room;
    if (auto bytes = objects.read_bytes(root, bytes_room)) {
        require(bytes->bytes.size() <= bytes_room.size());
    }
    (void)objects.read_unsigned(root);
    if (auto dict = DictView::read(objects, root)) {
        require(dict->used() <= dict->count());
        std::array<DictView::Entry, 100> entries;
        auto count = dict->read_entries(objects, 0, entries);
        require(!count || *count <= entries.size());
        FindHint hint;
        (void)dict->find(objects, "threading", &hint);
        (void)dict->find(objects, "threading", &hint);
    }
    AttributeFinder finder("_name");
    (void)finder.find(objects, root);
    (void)finder.find(objects, root);
    (void)find_global(objects, root, "_active");
    for (const std::size_t budget : {3U, 100U}) {
        auto scan = names.scan(objects, 0, root, budget);
        require(!scan || scan->read <= budget);
    }
    require(is_utf8(names.find(0, 0x7f000000)) && is_utf8(names.find(0, 5)));
    (void)read_debug_offsets(objects.memory(), root, objects.layout());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) {
        return 0;
    }
    static auto names = ThreadNames::make();
    require(names.has_value());
    const auto rows = known_layouts();
    const std::size_t row = data[0] % rows.size();
    const Image& sane = image_of(row);
    std::vector<std::uint8_t> image = sane.bytes;
    fuzz::Input patches(data + 1, size - 1);
    fuzz::apply_patches(image, kBase, patches);

    ImageReader memory(kBase, image);
    ObjectReader objects(memory, rows[row]);
    names->clear();
    for (const Address root : sane.roots) {
        read_everything(objects, *names, root);
    }
    if (size == 1) {  // unchanged, the image is read as what it is
        require(names->scan(objects, 0, sane.roots.front(), 100).has_value());
        require(names->find(0, 0x7f000000) == "\xe2\x82\xac\xef\xbf\xbdx");
        require(names->find(0, 5) == "x" && names->find(0, 6) ==
                                                "\xc3\xa9"
                                                "a");
    }
    // However the objects point to each other, the work is bounded by the image's size.
    require(memory.calls < 50000);
    return 0;
}
