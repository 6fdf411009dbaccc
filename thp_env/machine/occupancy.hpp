// How full address ranges are: what a kernel could note at its own faults, so it costs no simulated time.
#pragma once
#include "state.hpp"

namespace thp {

// What a 4K page maps: the order of its folio, or one of these.
constexpr i8 MAPS_NOTHING = -1, MAPS_ZEROS = -2;

void mapped_orders(machine &m, u32 mm, u64 start, u64 end, i8 *out);

// An aligned 2M block with a page mapped.
struct block_occupancy {
    u64 start;
    u32 mapped, huge; // pages mapped by folios, and of these by folios of 2M
};
static_assert(sizeof(block_occupancy) == 16);

// Those that lie wholly in a range, in address order.
std::vector<block_occupancy> occupied_blocks(machine &m, u32 mm, u64 start, u64 end);

// Of the aligned blocks of one size that lie wholly in a range: how many have a page mapped; how many of
// these are not filled by folios of that size or a larger one; and the pages mapped in those.
struct size_occupancy {
    u64 begun, partial, mapped;
};

// Adds them up in `out`, by order.
void occupancy_by_size(machine &m, u32 mm, u64 start, u64 end, size_occupancy out[PMD_ORDER + 1]);

// An aligned block in which a folio of the block's size has pages and other pages map nothing.
struct block_with_hole {
    u64 start;
    u32 order, held, nothing; // pages of folios of this order, pages that map nothing
    u32 spare;
};
static_assert(sizeof(block_with_hole) == 24);

// Those that lie wholly in a range, by order from 2 on, then by address.
std::vector<block_with_hole> blocks_with_holes(machine &m, u32 mm, u64 start, u64 end);

} // namespace thp
