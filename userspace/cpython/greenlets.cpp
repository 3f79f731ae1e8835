#include "cpython/greenlets.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "cpython/attributes.h"

namespace echion::cpython {
namespace {

constexpr std::size_t kWord = sizeof(void*);
// Classes between a class and greenlet's.
constexpr int kMaxBases = 16;
// Generators that handle exceptions in a greenlet's stack.
constexpr int kMaxExceptions = 512;
// stack_stop of a main greenlet.
constexpr std::uintptr_t kWholeStack = ~std::uintptr_t{0};
// Words of a flat PyGreenlet, behind the object's head, up to and with top_frame.
constexpr std::size_t kFlatWords = 8;
// Words of a PyGreenlet from 2.0 on: weakreflist, dict, pimpl.
constexpr std::size_t kHandleWords = 3;
// Behind what the base class has: at most _self, main_greenlet, run_callable, parent.
constexpr std::size_t kTailWords = 4;
// From the top frame to the end of what the base class has.
constexpr std::size_t kMaxStateWords = 20;

enum FlatField : std::uint8_t {
    kStackStart,
    kStackStop,
    kStackCopy,
    kStackSaved,
    kStackPrevious,
    kParent,
    kRunInfo,
    kTopFrame,
};

/// Whether greenlets agree on a layout. Some are freed while they are read, and then do not.
struct Agreement {
    std::size_t samples = 0;
    std::size_t against = 0;

    void note(bool agrees) {
        ++samples;
        against += !agrees;
    }
    [[nodiscard]] bool holds() const { return samples != 0 && 4 * against < samples; }
};

bool is_object_or_null(Address address) { return address.is_aligned(kWord); }

}  // namespace

Status Greenlets::reserve() {
    auto known_types = FixedArray<KnownType>::make(kKnownTypes);
    if (!known_types) {
        return tl::unexpected(known_types.error());
    }
    known_types_ = std::move(*known_types);
    return {};
}

void Greenlets::forget() {
    type_ = Address();
    kind_ = Kind::kUnknown;
    forget_types();
}

void Greenlets::forget_types() {
    kinds_.forget();
    std::fill_n(known_types_.data(), known_types_.capacity(), KnownType{});
}

Status Greenlets::find(ObjectReader& objects, Address modules) {
    const auto module = find_module(objects, modules, "greenlet");
    const auto type =
        module && *module ? find_global(objects, *module, "greenlet") : Result<Address>(Address());
    if (!type || !*type) {
        return fail(ErrorKind::kNotReady, "greenlet has not been imported");
    }
    const auto facts = objects.read_type(*type);
    if (!facts) {
        return tl::unexpected(facts.error());
    }
    if (*type != type_) {
        forget();
        type_ = *type;
    }
    basic_size_ = static_cast<std::size_t>(facts->basic_size);
    forget_types();
    return {};
}

bool Greenlets::is_greenlet_type(ObjectReader& objects, Address type) {
    const std::uintptr_t word = type.value() >> 4;
    KnownType& known = known_types_[(word ^ (word >> 12)) % kKnownTypes];
    if (known.type == type && type) {
        return known.is_greenlet;
    }
    Address base = type;
    for (int i = 0; i < kMaxBases && base != type_ && is_object_address(base); ++i) {
        base = read_word(objects, base + at(objects.layout().type.tp_base));
    }
    known = {type, base == type_ && type_};
    return known.is_greenlet;
}

bool Greenlets::is_greenlet(ObjectReader& objects, Address object) {
    const Address type = is_object_address(object)
                             ? read_word(objects, object + at(objects.layout().object.ob_type))
                             : Address();
    return type && is_greenlet_type(objects, type);
}

bool Greenlets::is_hub(ObjectReader& objects, Address greenlet) {
    const auto type = objects.read_type_of(greenlet);
    const Address name_at =
        type ? read_word(objects, *type + at(objects.layout().type.tp_name)) : Address();
    std::array<char, 32> text;
    const auto name = name_at ? read_c_string(objects.memory(), name_at, text)
                              : Result<std::string_view>(std::string_view());
    return name && name->substr(name->rfind('.') + 1) == "Hub";
}

bool Greenlets::is_frame(ObjectReader& objects, Address object) {
    return kinds_.find(objects, object) == TypeKind::kFrame;
}

bool Greenlets::read_words(ObjectReader& objects, Address from, std::span<Address> into) {
    static_assert(sizeof(Address) == kWord);
    return is_object_address(from) &&
           objects.memory().read_bytes(from, into.data(), into.size() * kWord);
}

Status Greenlets::learn(ObjectReader& objects, std::size_t count,
                        FunctionRef<Address(std::size_t)> get) {
    if (has_learnt()) {
        return {};
    }
    const std::size_t head_bytes = at(objects.layout().object.size);
    bool is_learnt = false;
    if (basic_size_ == head_bytes + kHandleWords * kWord) {
        is_learnt = learn_implementation(objects, count, get);
    } else if (basic_size_ > head_bytes + kFlatWords * kWord) {
        is_learnt = learn_flat(objects, count, get);
    }
    return is_learnt ? Status{}
                     : fail(ErrorKind::kInvalid, "learn the layout of greenlets: they disagree");
}

bool Greenlets::learn_flat(ObjectReader& objects, std::size_t count,
                           FunctionRef<Address(std::size_t)> get) {
    const Layout& layout = objects.layout();
    bool has_main = false;
    Agreement agreement;
    for (std::size_t i = 0; i < count && (i < kMaxSamples || !has_main); ++i) {
        Words words{};
        if (!read_words(objects, get(i) + at(layout.object.size),
                        std::span(words).first(kFlatWords))) {
            continue;
        }
        const Address parent = words[kParent];
        const Address frame = words[kTopFrame];
        const bool is_main = words[kStackStop].value() == kWholeStack;
        bool agrees = (!parent || (!is_main && is_greenlet(objects, parent))) &&
                      (!frame || is_frame(objects, frame));
        if (words[kStackStart]) {
            const auto type = objects.read_type_of(words[kRunInfo]);
            agrees = agrees && words[kStackStart] < words[kStackStop] && type &&
                     objects.check_type(*type, kTypeDict);
        }
        agreement.note(agrees);
        has_main = has_main || (is_main && agrees);
    }
    const bool is_learnt = has_main && agreement.holds();
    kind_ = is_learnt ? Kind::kFlat : Kind::kUnknown;
    return is_learnt;
}

Address Greenlets::find_implementation(ObjectReader& objects, Address greenlet) {
    const Address found = read_word(
        objects, greenlet + at(objects.layout().object.size) + (kHandleWords - 1) * kWord);
    return is_object_address(found) ? found : Address();
}

bool Greenlets::learn_implementation(ObjectReader& objects, std::size_t count,
                                     FunctionRef<Address(std::size_t)> get) {
    // Nothing else that may be in its place points to the greenlet.
    has_self_ = false;
    for (std::size_t i = 0; i < std::min(count, kMaxSamples) && !has_self_; ++i) {
        std::array<Address, 2> words{};
        has_self_ =
            read_words(objects, find_implementation(objects, get(i)), words) && words[1] == get(i);
    }
    exc_info_at_ = has_self_ ? 2 : 1;
    constexpr std::size_t kArgumentWords = 2;
    constexpr std::size_t kStackWords = 5;
    stack_at_ =
        exc_info_at_ + 1 + at(objects.layout().exception_item.size) / kWord + kArgumentWords;
    top_frame_at_ = stack_at_ + kStackWords + 1;
    if (top_frame_at_ + kMaxStateWords + kTailWords > kMaxWords ||
        !learn_tail(objects, count, get)) {
        return false;
    }
    kind_ = Kind::kImplementation;
    const auto is_one = [&](Address object) { return !object || is_greenlet(objects, object); };
    Agreement agreement;
    for (std::size_t i = 0; i < std::min(count, kMaxSamples); ++i) {
        const auto facts = read(objects, get(i));
        if (facts) {
            agreement.note(is_one(facts->main) && is_one(facts->parent) &&
                           (!facts->top_frame || is_frame(objects, facts->top_frame)));
        }
    }
    kind_ = agreement.holds() ? kind_ : Kind::kUnknown;
    return has_learnt();
}

/// What the base class has ends where a main greenlet has a second pointer to itself.
bool Greenlets::learn_tail(ObjectReader& objects, std::size_t count,
                           FunctionRef<Address(std::size_t)> get) {
    tail_at_ = 0;
    std::size_t mains = 0;
    for (std::size_t i = 0; i < count && mains < kMaxSamples; ++i) {
        const Address greenlet = get(i);
        const Address implementation = find_implementation(objects, greenlet);
        if (!implementation ||
            read_word(objects, implementation + (stack_at_ + 1) * kWord).value() != kWholeStack) {
            continue;
        }
        ++mains;
        std::size_t found = 0;
        for (std::size_t j = 1; j <= kMaxStateWords && found == 0; ++j) {
            const std::size_t place = top_frame_at_ + j;
            found = read_word(objects, implementation + place * kWord) == greenlet ? place : 0;
        }
        const Address thread =
            found != 0 ? read_word(objects, implementation + (found + 1) * kWord) : Address();
        // Null: its thread has ended.
        if (found == 0 || (tail_at_ != 0 && tail_at_ != found) ||
            (thread && (read_word(objects, thread) != greenlet ||
                        !is_greenlet(objects, read_word(objects, thread + kWord))))) {
            return false;
        }
        tail_at_ = found;
    }
    return tail_at_ != 0;
}

Result<Greenlet> Greenlets::read(ObjectReader& objects, Address greenlet) {
    if (!has_learnt()) {
        return fail(ErrorKind::kNotReady, "read a greenlet: its layout is not known");
    }
    if (!is_object_address(greenlet)) {
        return fail(ErrorKind::kInvalid, "read a greenlet: not an object's address");
    }
    const Layout& layout = objects.layout();
    const Address type = read_word(objects, greenlet + at(layout.object.ob_type));
    if (!type || !is_greenlet_type(objects, type)) {
        return fail(ErrorKind::kInvalid, "read a greenlet: it is none");
    }
    Words words{};
    Greenlet out;
    if (kind_ == Kind::kFlat) {
        if (!read_words(objects, greenlet + at(layout.object.size),
                        std::span(words).first(kFlatWords))) {
            return fail(ErrorKind::kUnreadable, "read a greenlet");
        }
        out = parse_flat(words);
        out.main = out.is_main ? greenlet : Address();
    } else {
        const Address implementation = find_implementation(objects, greenlet);
        if (!implementation) {
            return fail(ErrorKind::kInvalid, "read a greenlet: it has been dropped");
        }
        if (!read_words(objects, implementation, std::span(words).first(tail_at_ + kTailWords))) {
            return fail(ErrorKind::kUnreadable, "read a greenlet");
        }
        out = parse_implementation(words);
        if (words[has_self_ ? 1 : tail_at_] != greenlet || (out.is_main && out.main != greenlet)) {
            return fail(ErrorKind::kInvalid, "read a greenlet: it is another's");
        }
    }
    if (!is_object_or_null(out.parent) || !is_object_or_null(out.main) ||
        !is_object_or_null(out.top_frame) || !is_object_or_null(out.run)) {
        return fail(ErrorKind::kInvalid, "read a greenlet: no such pointers");
    }
    out.type = type;
    return out;
}

Greenlet Greenlets::parse_flat(const Words& words) const {
    Greenlet out;
    const Address stop = words[kStackStop];
    out.is_main = stop.value() == kWholeStack;
    out.state = words[kStackStart] ? GreenletState::kActive
                : stop             ? GreenletState::kFinished
                                   : GreenletState::kNotStarted;
    out.parent = words[kParent];
    out.top_frame = words[kTopFrame];
    (out.state == GreenletState::kNotStarted ? out.run : out.owner) = words[kRunInfo];
    return out;
}

Greenlet Greenlets::parse_implementation(const Words& words) const {
    Greenlet out;
    const Address start = words[stack_at_];
    const Address stop = words[stack_at_ + 1];
    out.is_main = stop.value() == kWholeStack;
    out.state = start  ? GreenletState::kActive
                : stop ? GreenletState::kFinished
                       : GreenletState::kNotStarted;
    out.top_frame = words[top_frame_at_];
    out.owner = words[exc_info_at_];
    out.stack_start = start;
    out.stack_copy = words[stack_at_ + 2];
    out.saved_bytes = words[stack_at_ + 3].value();
    if (out.is_main) {
        out.main = words[tail_at_];
        out.thread = words[tail_at_ + 1];
        return out;
    }
    // Without a `_self` in the base class, this one has it, too.
    const std::size_t main_at = has_self_ ? tail_at_ : tail_at_ + 1;
    out.main = words[main_at];
    out.parent = words[main_at + 2];
    out.run = out.state == GreenletState::kNotStarted ? words[main_at + 1] : Address();
    return out;
}

Address Greenlets::find_owner(ObjectReader& objects, const Greenlet& greenlet) {
    if (greenlet.state != GreenletState::kActive || kind_ == Kind::kFlat) {
        return greenlet.owner;
    }
    // The oldest entry of the stack of exceptions is in the thread's state.
    const Layout& layout = objects.layout();
    Address item = greenlet.owner;
    for (int i = 0; i < kMaxExceptions && is_object_address(item); ++i) {
        const auto previous =
            objects.memory().read_pointer(item + at(layout.exception_item.previous));
        if (!previous) {
            return {};
        }
        if (!*previous) {
            return item - at(layout.thread_state.exc_state);
        }
        item = *previous;
    }
    return {};
}

Address Greenlets::find_owner_of_thread(ObjectReader& objects, Address thread_state) {
    return kind_ == Kind::kFlat
               ? read_word(objects, thread_state + at(objects.layout().thread_state.dict))
               : thread_state;
}

bool Greenlets::is_of_thread(ObjectReader& objects, const Greenlet& greenlet,
                             Address thread_state) {
    const Address owner = find_owner(objects, greenlet);
    return owner && owner == find_owner_of_thread(objects, thread_state);
}

Address Greenlets::find_current(ObjectReader& objects, Address main, const Greenlet& facts) {
    if (!knows_current() || read_word(objects, facts.thread) != main) {
        return {};
    }
    return read_word(objects, facts.thread + kWord);
}

/// Where `size_bytes` of its C stack are while it does not run; the same address for what is
/// elsewhere, or in place still.
Address Greenlets::translate(const Greenlet& greenlet, Address from, std::size_t size_bytes) const {
    const std::size_t offset = from - greenlet.stack_start;
    const bool is_saved = greenlet.stack_start && greenlet.stack_copy &&
                          offset < greenlet.saved_bytes &&
                          size_bytes <= greenlet.saved_bytes - offset;
    return is_saved ? greenlet.stack_copy + offset : from;
}

Greenlets::Frames Greenlets::read_frames(ObjectReader& objects, const Greenlet& greenlet,
                                         std::span<RawFrame> out) {
    // A frame up to its variables, in any version.
    constexpr std::size_t kMaxFrameBytes = 512;
    const Layout& layout = objects.layout();
    Frames result;
    Address frame = greenlet.top_frame;
    if (!frame) {
        return result;
    }
    const std::size_t frame_bytes = at(layout.frame.size);
    if (frame_bytes > kMaxFrameBytes || !is_frame(objects, frame)) {
        result.broken = true;
        return result;
    }
    if (has(layout.frame_object.frame)) {
        const Address object = frame;
        frame = read_word(objects, object + at(layout.frame_object.frame));
        if (!is_object_address(frame) ||
            read_word(objects, frame + at(layout.frame.frame_object)) != object) {
            result.broken = true;
            return result;
        }
    }
    // Frames without Python code do not count as output.
    const std::size_t max_steps = 2 * out.size() + 16;
    std::array<std::byte, kMaxFrameBytes> copy;
    for (std::size_t step = 0; frame; ++step) {
        if (step == max_steps || result.count == out.size()) {
            result.truncated = true;
            return result;
        }
        if (!is_object_address(frame) ||
            !objects.memory().read_bytes(translate(greenlet, frame, frame_bytes), copy.data(),
                                         frame_bytes)) {
            result.broken = true;
            return result;
        }
        if (read_frame(layout, objects.memory(), copy.data(), &out[result.count])) {
            ++result.count;
        } else if (!has(layout.frame.owner_without_code) ||
                   load<std::int8_t>(copy.data(), at(layout.frame.owner)) <
                       layout.frame.owner_without_code) {
            result.broken = true;
            return result;
        }
        frame = load_address(copy.data(), at(layout.frame.previous));
    }
    return result;
}

}  // namespace echion::cpython
