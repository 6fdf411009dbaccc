// mm/workingset.c: whether a page that comes back from swap was pushed out of memory it should have had.
#pragma once
#include "../state.hpp"

namespace thp {

// Notes in the slots when the folio was evicted, and whether under a memory limit.
void workingset_eviction(machine &m, u32 head, u32 slot, bool memcg);
// Activates a folio that returns within the working set. Evictions under the limit are measured against the
// group; others, MADV_PAGEOUT's too, against the whole system, where what is free here would be page cache.
void workingset_refault(machine &m, u32 head, u32 evicted);
// Pages became active: the others are that much older.
void workingset_age_nonresident(machine &m, u32 memcg, u64 nr);

} // namespace thp
