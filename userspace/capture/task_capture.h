#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/error.h"
#include "base/mapping.h"
#include "capture/task_store.h"
#include "cpython/asyncio.h"
#include "cpython/coroutines.h"
#include "cpython/frame_walker.h"
#include "cpython/layout.h"
#include "memory/address_map.h"
#include "memory/page_cache.h"
#include "memory/reader.h"

namespace echion::capture {

/// Reads the tasks of event loops: their frames, their names and who waits for whom, into itself as
/// a store. Memory is reserved when the first loop is met, and taken as it is needed. What is read
/// is as consistent as the caller proves it to be. One thread at a time.
class TaskCapture : public TaskStore {
  public:
    /// Where a thread is.
    struct Place {
        Address interpreter;
        Address modules;  ///< sys.modules
        Address state;    ///< PyThreadState
        /// Where its frames stand, newest first.
        std::span<const Address> frame_places;
    };
    struct Outcome {
        std::size_t first_task = 0;
        std::size_t task_count = 0;
        bool has_loop = false;
        bool is_cut = false;  ///< tasks or links are missing
    };
    /// Whether the thread runs an event loop: a few reads.
    bool has_loop(MemoryReader& reader, const cpython::Layout& layout, Address state);
    /// Reads the tasks of the loop that a thread runs. `max_frames`: of one task.
    Outcome read(MemoryReader& reader, const cpython::Layout& layout, const Place& place,
                 std::size_t max_frames);

  private:
    static_assert(kMaxTasks >= cpython::Asyncio::kMaxTasks);
    static constexpr std::size_t kMaxPages = 4096;

    Status reserve_all();
    bool add(cpython::ObjectReader& objects, Address loop, Address task);
    void read_frames(cpython::ObjectReader& objects, std::span<const Address> places,
                     std::size_t max_frames, CapturedTask& task, Address coro);
    TextPiece keep_name(cpython::ObjectReader& objects, Address name);
    void part_running(std::size_t first);
    bool read_waiters(cpython::ObjectReader& objects, std::size_t first, std::size_t index);

    bool is_reserved_ = false;
    cpython::Asyncio asyncio_;
    PageCache pages_;
    AddressMap index_;                           // of the thread that is being read
    ReservedArray<cpython::AsyncioTask> facts_;  // of its tasks
};

}  // namespace echion::capture
