#include "sampler.hpp"

namespace thp::recording {

namespace {

// The finalizer of MurmurHash3.
u64 mix(u64 x) {
    x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdULL;
    x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53ULL;
    return x ^ (x >> 33);
}

} // namespace

bool Sampler::kept(u64 index, u32 level) {
    for (u32 l = 0; l < level; l++, index >>= 1)
        if ((index & 1) != (mix((index >> 1 << 6) + l + 1) & 1)) return false;
    return true;
}

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
