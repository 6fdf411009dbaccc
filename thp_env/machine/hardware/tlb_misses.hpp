// A TLB alone: addresses in, misses out.
#pragma once
#include "../config.hpp"

namespace thp {

struct tlb_counts {
    u64 l1, l2;
};

// Misses of each level. Pages are of 2^shift bytes, or, where `sizes` is given, of the size (page_size) named
// for each address. The second level sees the first level's misses, a walk fills both, and nothing is
// exclusive.
tlb_counts tlb_misses(const tlb_config &config, const u64 *addresses, const u8 *sizes, u64 n, u32 shift);

} // namespace thp
