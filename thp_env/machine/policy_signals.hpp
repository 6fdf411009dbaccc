// What runs for a policy only when it asks: sampled page walks, and khugepaged by itself.
#pragma once
#include "types.hpp"

namespace thp {

// The address of a page walk that the PMU sampled. One simulated access may stand for many, of which `count`
// were sampled.
struct walk_sample {
    u64 address;
    u32 mm, count;
    u32 size, spare; // page_size of the entry
};
constexpr u32 MAX_WALK_SAMPLES = 1U << 14;

// How many walks there were in a 2M block since it was last collapsed, as far as the samples tell. Of blocks
// that share a place in the table it keeps the one with most, less those of the others (Misra and Gries,
// 1982).
struct walked_block {
    u64 block, walks; // address >> PMD_SHIFT
    u32 mm, spare;
};
constexpr u32 MAX_WALKED_BLOCKS = 1U << 12;

struct policy_signals {
    // The PMU samples every n-th walk (0: none); walks since the last sample.
    u64 walk_period, walks_since;
    // khugepaged: pages it looks at before it sleeps (0: it does not run), ps, and where it goes on.
    u64 khugepaged_pages, khugepaged_sleep, khugepaged_alloc_sleep, khugepaged_wakes, khugepaged_address;
    u32 khugepaged_mm, khugepaged_reserved;
};

} // namespace thp
