// The model TLB of pagetrace/tlb_model.h for the log reader, and for the sampled accesses of every recording.
#pragma once
#include "page_states.hpp"
#include "pagetrace/tlb_model.h"

namespace thp::recording {

class TlbModel {
    std::array<unsigned long long, FIRST_SETS * FIRST_WAYS> first_{};
    std::array<unsigned long long, SECOND_SETS * SECOND_WAYS> second_{};
    u64 last_ = ~0ULL;

  public:
    double accesses = 0, first_misses = 0, walks = 0;

    void access(u64 page, double count, double weight) {
        accesses += count * weight;
        if (page == last_) return;
        last_ = page;
        if (tlb_hit(first_.data(), FIRST_SETS, FIRST_WAYS, page)) return;
        first_misses += weight;
        if (!tlb_hit(second_.data(), SECOND_SETS, SECOND_WAYS, page)) walks += weight;
    }
};

} // namespace thp::recording
