// mm/vmscan.c: the LRU and reclaim.
#pragma once
#include "contpte.hpp"
#include <vector>

namespace thp {

// The inactive list, then the active one; new folios enter the inactive list at its head.
void lru_add(machine &m, u32 head);
void lru_del(machine &m, u32 head);
// reclaim_whole: 64K folios stand on lists of their own.
inline bool on_cont_pte_lru(const machine &m, u32 head) {
    return feature(m, FEATURE_reclaim_whole) && m.pages[head].order == CONT_PTE_ORDER;
}
// MADV_COLD: to the tail of the inactive list, reclaimed first (R33).
void folio_deactivate(machine &m, u32 head);
// A split folio's tails stand behind their head, as if they had aged with it.
void lru_add_split_folio(machine &m, u32 head, u32 tail);

// MADV_PAGEOUT: reclaims the folios, in order (reclaim_pages).
void reclaim_folios(machine &m, const std::vector<u32> &folios);
// Reclaims up to nr folios of the LRU that reclaim_whole keeps for 64K ones.
void shrink_cont_pte_folios(machine &m, u32 nr);
// memory.force_empty: reclaims what can be (R39).
void force_empty(machine &m);

} // namespace thp
