// Chooses the windows of a run whose accesses are recorded, and merges accesses into runs.
#pragma once
#include "page_states.hpp"

namespace thp::recording {

// `count` accesses to one page, the first of them in instruction number `instruction`. Count 0: one of the
// pages used last before a window, which warm the TLB up.
struct run_record {
    u64 instruction, page;
    u32 count, written;
};
static_assert(sizeof(run_record) == 24);

// Time is cut into windows of `window` instructions. At level L one of every 2^L neighbouring windows is
// kept, the choice being pseudo-random and nested, so that the windows kept at level L + 1 are a subset of
// those at level L. The level rises when the runs exceed the budget: a reservoir over time, in one pass, and
// the same for the same log. Random places inside each period avoid resonance with the program's loops.
class Sampler {
    // A run takes in accesses to its page while the page is among the last `depth_` ones accessed (so the
    // translation surely sits in a 4-way first-level TLB) and the run is among the last MAX_AGE runs (so that
    // the replay refreshes the page's place in the LRU order soon enough).
    static constexpr u32 MAX_DEPTH = 4, MAX_AGE = 16;

    struct recent_page {
        u64 page, run;
    };

    u64 window_, budget_, next_ = 0;
    u32 depth_, level_ = 0, recents_ = 0;
    bool active_ = false;
    std::array<recent_page, MAX_DEPTH> recent_{};
    std::vector<run_record> runs_;

    void thin();

  public:
    // More than the TLB of any core translates with 4K pages.
    static constexpr u32 WARM_PAGES = 2048;

    // budget: runs kept at most (0: no limit, everything is kept); at least what a few windows can hold.
    Sampler(u64 window, u64 budget, u32 depth)
        : window_(std::max<u64>(window, 1)),
          budget_(budget ? std::max(budget, 4 * (window_ + WARM_PAGES)) : 0),
          depth_(std::clamp<u32>(depth, 1, MAX_DEPTH)) {}

    static bool kept(u64 window_index, u32 level);

    // The instruction at which `cross` must be called next. It is true when a window to be kept begins, which
    // wants to be told of the pages used last.
    u64 next() const { return next_; }
    bool cross(u64 instruction);
    void warm(const std::vector<u64> &pages, u64 instruction) {
        for (const u64 page : pages) runs_.push_back({instruction, page, 0, 0});
    }

    // Ends the current runs: what follows must not be merged into them.
    void cut() { recents_ = 0; }

    bool active() const { return active_; }
    u32 level() const { return level_; }
    const std::vector<run_record> &runs() const { return runs_; }

    void access(u64 page, bool write, u64 instruction, bool faults) {
        u32 i = 0;
        while (i < recents_ && recent_[i].page != page) i++;
        const bool is_recent = i < recents_;
        recent_page entry = is_recent ? recent_[i] : recent_page{page, 0};
        if (is_recent && !faults && runs_.size() - entry.run <= MAX_AGE) {
            run_record &run = runs_[entry.run];
            run.count++;
            run.written |= write;
        } else {
            entry.run = runs_.size();
            runs_.push_back({instruction, page, 1, write});
            if (!is_recent) {
                recents_ = std::min(recents_ + 1, depth_);
                i = recents_ - 1;
            }
        }
        for (; i > 0; i--) recent_[i] = recent_[i - 1];
        recent_[0] = entry;
        if (budget_ && runs_.size() >= budget_) thin();
    }
};

} // namespace thp::recording
