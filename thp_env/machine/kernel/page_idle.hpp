// mm/page_idle.c, mm/damon/vaddr.c: what a policy reads entry by entry, and pays for.
#pragma once
#include "../state.hpp"

namespace thp {

// young_bits of an address.
enum young_bits : u8 {
    YOUNG_MAPPED = 1,
    YOUNG_ACCESSED = 2,
    YOUNG_PMD = 4,
    YOUNG_ZERO_PAGE = 8,
    YOUNG_DIRTY = 16,
    YOUNG_CONT = 32
};

// Reads the entries that map n addresses and clears their accessed bits, without a TLB flush, as Linux does
// on x86. Neighbours in the list that one PMD, or one contpte block, maps are one entry: read, and paid for,
// once.
void test_and_clear_young(machine &m, u32 mm, const u64 *addresses, u64 n, u8 *bits);

// Access and dirtiness below the size of a folio: reads n blocks of 64K from an address on, each what any of
// its entries says, and clears their accessed bits if told to. A folded contpte block (X5) or a PMD is one
// entry, others are read one by one; each is paid for.
void read_blocks(machine &m, u32 mm, u64 start, u64 n, bool clear, u8 *bits);

// Looks for pages that hold nothing but zeros in the huge and large folios of a range, as HawkEye's bloat
// recovery and thp_underused() do. A page in use shows within a few bytes; an empty one is read whole. How
// many.
u64 count_zero_pages(machine &m, u32 mm, u64 start, u64 end);

} // namespace thp
