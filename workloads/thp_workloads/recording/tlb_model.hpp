// A small two-level TLB for 4K pages. It sees every anonymous access of the recorded run, and afterwards the
// sampled ones: the difference is the sampling error. Geometry: 64 entries in 4 ways, 1536 in 12 ways, LRU.
#pragma once
#include "page_states.hpp"

namespace thp::recording {

template <u32 SETS, u32 WAYS> class TlbLevel {
    std::array<u64, SETS * WAYS> entries_{}; // most recently used first; 0 = empty

  public:
    // Shift while searching: one pass moves `page` to the front and drops the last of the set on a miss.
    bool hit(u64 page) {
        u64 *set = &entries_[page % SETS * WAYS];
        u64 carried = page + 1;
        for (u32 way = 0; way < WAYS; way++) {
            std::swap(carried, set[way]);
            if (carried == page + 1) return true;
        }
        return false;
    }
};

class TlbModel {
    TlbLevel<16, 4> first_;
    TlbLevel<128, 12> second_;
    u64 last_ = ~0ULL;

  public:
    double accesses = 0, first_misses = 0, walks = 0;

    void access(u64 page, double count, double weight) {
        accesses += count * weight;
        if (page == last_) return;
        last_ = page;
        if (first_.hit(page)) return;
        first_misses += weight;
        if (!second_.hit(page)) walks += weight;
    }
};

} // namespace thp::recording
