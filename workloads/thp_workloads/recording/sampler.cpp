#include "sampler.hpp"
#include "pagetrace/tlb_model.h"

namespace thp::recording {

bool Sampler::kept(u64 index, u32 level) { return window_rank(index) >= level; }

bool Sampler::cross(u64 instruction) {
    const u64 index = instruction / window_;
    next_ = (index + 1) * window_;
    active_ = kept(index, level_);
    cut();
    return active_ && budget_;
}

void Sampler::thin() {
    const u64 current = runs_.back().instruction / window_;
    while (level_ < 40 && runs_.size() >= budget_) {
        level_++;
        std::erase_if(runs_, [&](const run_record &r) { return !kept(r.instruction / window_, level_); });
    }
    active_ = kept(current, level_);
    cut();
}

} // namespace thp::recording
