// What the rest of the system did to free memory before and while the program runs: frames that it holds.
#pragma once
#include "state.hpp"

namespace thp {

// Puts one unmovable page into a share (of 2^16) of all 2M blocks, at a random place of each; blocks without
// a free page are passed over. The blocks keep their migrate type, as after a fallback that could not claim.
int pollute(machine &m, u64 share, u64 key);

// Puts one movable page of somebody else's page cache into free blocks of 2^order frames, in random order,
// until `index` thousandths of the free memory are unusable for that order (unusable_free_index).
int fragment(machine &m, u32 order, u32 index, u64 key);

} // namespace thp
