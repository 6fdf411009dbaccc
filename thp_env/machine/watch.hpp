// How an operation under way notices that somebody wants the run to end: ctrl-C, SIGALRM, another thread.
#pragma once
#include "types.hpp"
#include <chrono>
#include <exception>
#include <functional>

namespace thp {

// Leaves an operation that does not end soon although the run is to stop. The machine stands in the middle of
// it and cannot go on.
struct stopped_midway : std::exception {};

// Every loop of the kernel says that it works; now and then the host is asked whether to stop. Operations
// that can pause then do; those that cannot have a moment to end in. No part of the simulation.
class host_watch {
  public:
    bool stop = false; // the run is to end at the next place where it can

    void work(u32 units = 1) {
        if (left_ > units) {
            left_ -= units;
        } else {
            look();
        }
    }
    // Asks now. Returns `stop`.
    bool ask();

  private:
    friend struct watching;
    using clock = std::chrono::steady_clock;
    void look();

    static constexpr u32 UNITS = 1U << 12; // of work between two looks at the clock: some milliseconds
    u32 left_ = UNITS;
    const std::function<bool()> *stopped_ = nullptr;
    clock::time_point asked_, stopping_since_;
};

// While it lives, `stopped` is asked.
struct watching {
    host_watch &watch;
    const std::function<bool()> *before;
    watching(host_watch &w, const std::function<bool()> &stopped) : watch(w), before(w.stopped_) {
        watch.stopped_ = &stopped;
        if (before) return;
        watch.stop = false;
        watch.asked_ = host_watch::clock::now();
    }
    ~watching() { watch.stopped_ = before; }
    watching(const watching &) = delete;
    watching &operator=(const watching &) = delete;
};

} // namespace thp
