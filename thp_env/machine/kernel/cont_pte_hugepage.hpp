// OPPO's mm/cont_pte_hugepage.c: a reserve of 64K folios (feature pool_64k).
#pragma once
#include "contpte.hpp"

namespace thp {

// Takes the reserve out of the buddy allocator, once, before anything runs.
void huge_page_pool_init(machine &m);
// A block of 16 frames for a 64K folio: from the reserve down to its watermark, else lent by the buddy
// allocator; NIL.
u32 alloc_cont_pte_hugepage(machine &m, u32 gfp);
// Gives a freed 64K folio's frames back to where they came from.
void free_cont_pte_hugepage(machine &m, u32 head);
// A folio that is split is lost to the reserve until it is refilled.
void huge_page_pool_split(machine &m, u32 head);
// khpage_poold and kswapd: refill what was lost, and below the low watermark reclaim 64K folios. Between
// faults.
void huge_page_pool_balance(machine &m);

inline bool uses_huge_page_pool(const machine &m, u32 order) {
    return order == CONT_PTE_ORDER && feature(m, FEATURE_pool_64k);
}

} // namespace thp
