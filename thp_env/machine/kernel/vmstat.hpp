// mm/vmstat.c: how fragmented free memory is.
#pragma once
#include "../state.hpp"

namespace thp {

// Free blocks of an order and a type, or of any type, with memory that has no record yet.
u32 nr_free_blocks(const machine &m, u32 order, u32 migratetype);
u32 nr_free_blocks(const machine &m, u32 order);

// The share of free memory, in thousandths, that an allocation of this order cannot use (Gorman and Whitcroft
// 2006): 0 when all of it lies in blocks that are large enough, 1000 when none does.
u32 unusable_free_index(const machine &m, u32 order);
// Why an allocation of this order fails: towards 0 for want of memory, towards 1000 because of fragmentation;
// -1000 when it would not fail.
i32 fragmentation_index(const machine &m, u32 order);

} // namespace thp
