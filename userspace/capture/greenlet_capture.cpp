#include "capture/greenlet_capture.h"

#include <algorithm>
#include <array>
#include <bit>

#include "base/clock.h"

namespace echion::capture {
namespace {

using cpython::at;
using cpython::Greenlet;
using cpython::GreenletState;

constexpr std::size_t kMaxGreenletNameBytes = 256;
// Ranges that are copied for one interpreter or one thread.
constexpr std::size_t kMaxGreenletReads = std::size_t{1} << 24;
// Objects between two looks at the clock.
constexpr std::size_t kObjectsAtOnce = 1024;
// Of a walk that has missed something.
constexpr int kAttempts = 3;
// To learn from greenlets that change meanwhile.
constexpr int kLearnAttempts = 8;

}  // namespace

Status GreenletCapture::reserve() {
    if (is_reserved_) {
        return {};
    }
    auto pages = PageCache::make(kMaxPages);
    auto walk_pages = PageCache::make(kWalkPages);
    auto index = AddressMap::make(std::bit_ceil(2 * kMaxFound));
    auto owners = AddressMap::make(std::bit_ceil(2 * kMaxFound));
    auto candidates = ReservedArray<Candidate>::make(kMaxFound);
    auto waitables = ReservedArray<Address>::make(kMaxFound);
    auto facts = ReservedArray<Greenlet>::make(TaskStore::kMaxTasks);
    if (!pages || !walk_pages || !index || !owners || !candidates || !waitables || !facts ||
        !greenlets_.reserve() || !links_.reserve()) {
        return fail(ErrorKind::kNoSpace, "reserve memory for greenlets");
    }
    pages_ = std::move(*pages);
    walk_pages_ = std::move(*walk_pages);
    index_ = std::move(*index);
    owners_ = std::move(*owners);
    candidates_ = std::move(*candidates);
    waitables_ = std::move(*waitables);
    facts_ = std::move(*facts);
    is_reserved_ = true;
    return {};
}

void GreenletCapture::begin() {
    greenlets_.forget();
    candidate_count_ = 0;
    found_facts_ = {};
    time_left_ns_ = kMaxFindNs;
}

void GreenletCapture::find(MemoryReader& reader, const cpython::Layout& layout,
                           const Interpreter& place) {
    cpython::ObjectReader direct(reader, layout);
    const auto module = cpython::find_module(direct, place.modules, "greenlet");
    if (!module || !*module) {
        return;
    }
    if (!reserve()) {
        found_facts_.is_there = true;
        found_facts_.is_whole = false;
        return;
    }
    if (!greenlets_.find(direct, place.modules)) {
        return;  // another module of that name
    }
    found_facts_.is_there = true;
    waitable_count_ = 0;
    links_.forget();
    const std::size_t first = candidate_count_;
    const std::int64_t begin_ns = monotonic_ns();
    index_.clear();
    pages_.begin();
    bool is_whole = false;
    for (int attempt = 0; attempt < kAttempts && !is_whole && time_left_ns_ > 0; ++attempt) {
        CachedReader cached(pages_, reader, kMaxGreenletReads);
        cpython::ObjectReader types(cached, layout);
        is_whole = walk(reader, types, place);
    }
    time_left_ns_ -= monotonic_ns() - begin_ns;
    found_facts_.is_whole = found_facts_.is_whole && is_whole;
    const auto get = [&](std::size_t i) { return candidates_[first + i].greenlet; };
    for (int attempt = 0; attempt < kLearnAttempts; ++attempt) {
        pages_.begin();
        CachedReader cached(pages_, reader, kMaxGreenletReads);
        cpython::ObjectReader objects(cached, layout);
        if (greenlets_.learn(objects, candidate_count_ - first, get)) {
            place_all(objects, first);
            note_waits(objects);
            return;
        }
    }
    found_facts_.unreadable += candidate_count_ - first;
    candidate_count_ = first;
}

/// False when greenlets may be missing.
bool GreenletCapture::walk(MemoryReader& reader, cpython::ObjectReader& types,
                           const Interpreter& place) {
    const std::int64_t deadline_ns = monotonic_ns() + time_left_ns_;
    cpython::GcObjects walk(walk_pages_);
    if (!walk.begin(reader, types.layout(), place.runtime, place.interpreter)) {
        return false;
    }
    bool has_room = true;
    const auto visit = [&](const cpython::GcObjects::Object& object) {
        if (greenlets_.is_greenlet_type(types, object.type)) {
            if (index_.find(object.object) != AddressMap::kNone) {
                return;
            }
            has_room = has_room && candidates_.grow_to(candidate_count_ + 1) &&
                       index_.set(object.object, static_cast<std::uint32_t>(candidate_count_));
            if (has_room) {
                candidates_[candidate_count_++] = {object.object, {}, {}};
            }
        } else if (links_.is_waitable_type(types, object.type) &&
                   waitables_.grow_to(waitable_count_ + 1)) {
            waitables_[waitable_count_++] = object.object;
        }
    };
    waitable_count_ = 0;
    while (walk.walk(reader, kObjectsAtOnce, visit)) {
        if (monotonic_ns() > deadline_ns) {
            time_left_ns_ = 0;
            return false;
        }
    }
    return walk.is_whole() && has_room;
}

/// Finds out whose the candidates from `first` on are; drops those that have ended.
void GreenletCapture::place_all(cpython::ObjectReader& objects, std::size_t first) {
    owners_.clear();
    const auto is_dead = [&](const Greenlet& facts) {
        // Its thread has ended.
        return greenlets_.knows_current() && facts.is_main && !facts.thread;
    };
    std::size_t kept = first;
    for (std::size_t i = first; i < candidate_count_; ++i) {
        const Address greenlet = candidates_[i].greenlet;
        const auto facts = greenlets_.read(objects, greenlet);
        if (!facts || facts->state == GreenletState::kFinished || is_dead(*facts)) {
            continue;
        }
        Candidate& candidate = candidates_[kept++];
        candidate = {greenlet,
                     facts->state == GreenletState::kActive ? greenlets_.find_owner(objects, *facts)
                                                            : Address(),
                     {}};
        if (candidate.owner && facts->main) {
            owners_.set(facts->main, static_cast<std::uint32_t>(kept - 1));
        }
    }
    candidate_count_ = kept;
    for (std::size_t i = first; i < candidate_count_; ++i) {
        Candidate& candidate = candidates_[i];
        const auto facts = candidate.owner ? Result<Greenlet>(Greenlet())
                                           : greenlets_.read(objects, candidate.greenlet);
        if (!candidate.owner && facts) {
            candidate.owner = find_owner_above(objects, *facts);
            found_facts_.unplaced += !candidate.owner && !facts->is_main;
        }
    }
}

/// Notes what greenlets wait for, other than greenlets.
void GreenletCapture::note_waits(cpython::ObjectReader& objects) {
    index_.clear();
    for (std::size_t i = 0; i < candidate_count_; ++i) {
        index_.set(candidates_[i].greenlet, static_cast<std::uint32_t>(i));
    }
    for (std::size_t i = 0; i < waitable_count_; ++i) {
        links_.visit_waiters(objects, greenlets_, waitables_[i], [&](Address greenlet) {
            const std::uint32_t found = index_.find(greenlet);
            if (found != AddressMap::kNone && !candidates_[found].waits_for) {
                candidates_[found].waits_for = waitables_[i];
            }
            return true;
        });
    }
}

/// The owner of the main greenlet, or of one that goes on when it ends.
Address GreenletCapture::find_owner_above(cpython::ObjectReader& objects, const Greenlet& facts) {
    Greenlet above = facts;
    for (int i = 0; i < kMaxParents; ++i) {
        const std::uint32_t shown = owners_.find(above.main);
        if (shown != AddressMap::kNone) {
            return candidates_[shown].owner;
        }
        const auto parent = greenlets_.read(objects, above.parent);
        if (!parent) {
            return {};
        }
        above = *parent;
        if (above.state == GreenletState::kActive) {
            if (const Address owner = greenlets_.find_owner(objects, above)) {
                return owner;
            }
        }
    }
    return {};
}

bool GreenletCapture::has_greenlets(MemoryReader& reader, const cpython::Layout& layout,
                                    Address state) {
    if (candidate_count_ == 0) {
        return false;
    }
    cpython::ObjectReader objects(reader, layout);
    const Address owner = greenlets_.find_owner_of_thread(objects, state);
    const std::span<const Candidate> candidates(candidates_.data(), candidate_count_);
    return owner && std::any_of(candidates.begin(), candidates.end(),
                                [&](const Candidate& one) { return one.owner == owner; });
}

GreenletCapture::Outcome GreenletCapture::read(MemoryReader& reader, const cpython::Layout& layout,
                                               const Place& place, std::size_t max_frames,
                                               TaskStore& store) {
    Outcome out;
    first_ = out.first = store.count();
    main_ = Address();
    if (candidate_count_ == 0 || !store.reserve()) {
        out.is_cut = candidate_count_ != 0;
        return out;
    }
    const TaskStore::Mark mark = store.mark();
    pages_.begin();
    index_.clear();
    name_.forget();
    run_.forget();
    links_.forget();
    CachedReader cached(pages_, reader, kMaxGreenletReads);
    cpython::ObjectReader objects(cached, layout);
    if (!greenlets_.find(objects, place.modules) || !greenlets_.has_learnt()) {
        return out;
    }
    out.is_cut = !add_proved(objects, place, store) || !main_ || !add_others(objects, place, store);
    if (!main_ || store.count() - first_ < 2) {
        store.go_back(mark);
        return out;
    }
    find_running(objects, store);
    for (std::size_t i = first_; i < store.count(); ++i) {
        CapturedTask& task = store.task(i);
        const Greenlet& facts = facts_[i - first_];
        task.parent = index_.find(facts.parent);
        describe(objects, store, task, facts);
        read_frames(objects, place.frame_count, max_frames, store, task, facts);
    }
    out.is_cut = !read_waiters(objects, store) || out.is_cut;
    out.is_cut = out.is_cut || cached.is_over();
    out.count = store.count() - first_;
    return out;
}

/// Adds those that say themselves that they are of the thread. False when there is no room.
bool GreenletCapture::add_proved(cpython::ObjectReader& objects, const Place& place,
                                 TaskStore& store) {
    const Address owner = greenlets_.find_owner_of_thread(objects, place.state);
    for (std::size_t i = 0; i < candidate_count_; ++i) {
        const Address greenlet = candidates_[i].greenlet;
        if (candidates_[i].owner != owner) {
            continue;
        }
        const auto facts = greenlets_.read(objects, greenlet);
        if (!facts || facts->state != GreenletState::kActive ||
            !greenlets_.is_of_thread(objects, *facts, place.state)) {
            continue;
        }
        // Of several main greenlets one at most is the thread's: the others are a mistake.
        if (facts->main && main_ && facts->main != main_) {
            continue;
        }
        if (facts->main && !main_) {
            const auto main = greenlets_.read(objects, facts->main);
            if (!main || !main->is_main || (greenlets_.knows_current() && !main->thread)) {
                continue;
            }
            main_ = facts->main;
        }
        if (!add(greenlet, *facts, store)) {
            return false;
        }
    }
    return true;
}

/// Adds the main greenlet, the one that runs, and those that have not started. False when there is
/// no room.
bool GreenletCapture::add_others(cpython::ObjectReader& objects, const Place& place,
                                 TaskStore& store) {
    const Address owner = greenlets_.find_owner_of_thread(objects, place.state);
    const auto main = greenlets_.read(objects, main_);
    if (main && !add(main_, *main, store)) {
        return false;
    }
    if (main && greenlets_.knows_current()) {
        const Address current = greenlets_.find_current(objects, main_, *main);
        const auto facts = greenlets_.read(objects, current);
        if (facts && facts->main == main_ && facts->state == GreenletState::kActive &&
            !add(current, *facts, store)) {
            return false;
        }
    }
    // Those that have been made since find() as well, if they are above others.
    for (std::size_t i = first_; i < store.count(); ++i) {
        const Address parent = facts_[i - first_].parent;
        const auto facts = greenlets_.read(objects, parent);
        if (facts && facts->state == GreenletState::kNotStarted && !add(parent, *facts, store)) {
            return false;
        }
    }
    for (std::size_t i = 0; i < candidate_count_; ++i) {
        const auto& [greenlet, its_owner, waits_for] = candidates_[i];
        const auto facts =
            its_owner == owner ? greenlets_.read(objects, greenlet) : Result<Greenlet>(Greenlet());
        if (facts && facts->state == GreenletState::kNotStarted &&
            is_above_known(objects, *facts) && !add(greenlet, *facts, store)) {
            return false;
        }
    }
    return true;
}

/// Whether one that goes on when it ends is of the thread.
bool GreenletCapture::is_above_known(cpython::ObjectReader& objects, const Greenlet& facts) {
    Address parent = facts.parent;
    for (int i = 0; i < kMaxParents && parent; ++i) {
        if (index_.find(parent) != AddressMap::kNone) {
            return true;
        }
        const auto above = greenlets_.read(objects, parent);
        if (!above || above->state != GreenletState::kNotStarted) {
            return false;
        }
        parent = above->parent;
    }
    return false;
}

/// False when there is no room.
bool GreenletCapture::add(Address greenlet, const Greenlet& facts, TaskStore& store) {
    if (index_.find(greenlet) != AddressMap::kNone) {
        return true;
    }
    const TaskStore::Mark before = store.mark();
    if (!facts_.grow_to(before.tasks - first_ + 1) ||
        store.add(greenlet, TaskKind::kGreenlet) == nullptr ||
        !index_.set(greenlet, static_cast<std::uint32_t>(before.tasks))) {
        store.go_back(before);
        return false;
    }
    facts_[before.tasks - first_] = facts;
    return true;
}

/// Tells which one runs.
void GreenletCapture::find_running(cpython::ObjectReader& objects, TaskStore& store) {
    Address current;
    std::size_t without_frame = 0;
    for (std::size_t i = first_; i < store.count(); ++i) {
        const Greenlet& facts = facts_[i - first_];
        if (greenlets_.knows_current() && store.task(i).task == main_) {
            current = greenlets_.find_current(objects, main_, facts);
        }
        without_frame += facts.state == GreenletState::kActive && !facts.top_frame;
    }
    for (std::size_t i = first_; i < store.count(); ++i) {
        CapturedTask& task = store.task(i);
        const Greenlet& facts = facts_[i - first_];
        if (facts.state == GreenletState::kNotStarted) {
            task.state = TaskState::kNotStarted;
        } else if (greenlets_.knows_current()) {
            task.state = task.task == current ? TaskState::kRunning : TaskState::kSuspended;
        } else if (!facts.top_frame) {
            task.state = without_frame == 1 ? TaskState::kRunning : TaskState::kElsewhere;
        } else {
            task.state = TaskState::kSuspended;
        }
    }
}

/// False when links may be missing.
bool GreenletCapture::read_waiters(cpython::ObjectReader& objects, TaskStore& store) {
    bool is_whole = true;
    for (std::size_t i = first_; i < store.count(); ++i) {
        CapturedTask& task = store.task(i);
        store.begin_waiters(task);
        const auto take = [&](Address greenlet) {
            const std::uint32_t found = index_.find(greenlet);
            const std::size_t before = task.waiter_count;
            if (found == AddressMap::kNone || found == i) {
                return true;
            }
            const bool has_room = store.add_waiter(task, found);
            if (task.waiter_count != before) {
                CapturedTask& waiter = store.task(found);
                if (waiter.waits_for_count++ == 0) {
                    waiter.waits_for = static_cast<std::uint32_t>(i);
                }
            }
            is_whole = is_whole && has_room;
            return has_room;
        };
        is_whole = links_.visit_waiters(objects, greenlets_, task.task, take) && is_whole;
    }
    for (std::size_t i = 0; i < candidate_count_; ++i) {
        read_waits(objects, store, i);
    }
    return is_whole;
}

/// What one waits for, as find() has seen it, if it does still.
void GreenletCapture::read_waits(cpython::ObjectReader& objects, TaskStore& store,
                                 std::size_t candidate) {
    const Address greenlet = candidates_[candidate].greenlet;
    const Address object = candidates_[candidate].waits_for;
    const std::uint32_t found = object ? index_.find(greenlet) : AddressMap::kNone;
    if (found == AddressMap::kNone) {
        return;
    }
    bool waits = false;
    links_.visit_waiters(objects, greenlets_, object, [&](Address waiter) {
        waits = waits || waiter == greenlet;
        return !waits;
    });
    if (waits) {
        store.task(found).waits_for_type = store.keep_type_name(objects, object);
    }
}

void GreenletCapture::describe(cpython::ObjectReader& objects, TaskStore& store, CapturedTask& task,
                               const Greenlet& facts) {
    task.type_name = store.keep_type_name(objects, task.task);
    if (facts.is_main) {
        task.kind = TaskKind::kMainGreenlet;
    } else if (cpython::Greenlets::is_hub(objects, task.task)) {
        task.kind = TaskKind::kHub;
    }
    std::array<char, kMaxGreenletNameBytes> text;
    const auto name = name_.find(objects, task.task);
    if (const auto read = name && *name ? objects.read_unicode(*name, text)
                                        : Result<cpython::Text>(cpython::Text())) {
        task.name = store.keep(read->utf8);
    }
    if (task.state == TaskState::kNotStarted) {
        // gevent's own keep it as an attribute, and start with a method of theirs.
        const auto run = run_.find(objects, task.task);
        task.function = keep_function(objects, store, run && *run ? *run : facts.run);
    }
}

TextPiece GreenletCapture::keep_function(cpython::ObjectReader& objects, TaskStore& store,
                                         Address function) {
    const cpython::Layout& layout = objects.layout();
    if (greenlets_.kinds().find(objects, function) == cpython::TypeKind::kMethod) {
        function = cpython::read_word(objects, function + at(layout.method.function));
    }
    if (greenlets_.kinds().find(objects, function) != cpython::TypeKind::kFunction) {
        return {};
    }
    std::array<char, kMaxGreenletNameBytes> text;
    const auto name = objects.read_unicode(
        cpython::read_word(objects, function + at(layout.function.qualname)), text);
    return name ? store.keep(name->utf8) : TextPiece{};
}

void GreenletCapture::read_frames(cpython::ObjectReader& objects, std::size_t frame_count,
                                  std::size_t max_frames, TaskStore& store, CapturedTask& task,
                                  const Greenlet& facts) {
    if (task.state == TaskState::kRunning) {
        task.frame_count = frame_count;
        return;
    }
    store.keep_frames(task, 0);
    if (task.state != TaskState::kSuspended) {
        return;
    }
    const std::span<cpython::RawFrame> room = store.make_room(max_frames);
    const cpython::Greenlets::Frames frames = greenlets_.read_frames(objects, facts, room);
    task.is_truncated = frames.truncated;
    task.is_broken = frames.broken;
    store.keep_frames(task, frames.count);
}

}  // namespace echion::capture
