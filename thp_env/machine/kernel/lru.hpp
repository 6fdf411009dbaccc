// mm/swap.c: the LRU lists, and the batches in front of them.
#pragma once
#include "contpte.hpp"

namespace thp {

// reclaim_whole: 64K folios stand on lists of their own, and reclaim never splits them.
inline bool on_cont_pte_lru(const machine &m, u32 head) {
    return feature(m, FEATURE_reclaim_whole) && m.pages[head].order == CONT_PTE_ORDER;
}
// Which list a folio belongs to.
lru_index folio_lru_list(const machine &m, u32 head);

// A list runs from its head, the newest folio, to its tail, the next to be reclaimed. New folios enter the
// inactive list. Lazily freed ones stand with the files (R32).
void lru_add(machine &m, u32 head);
void lru_del(machine &m, u32 head);
// A folio that turned out to be in use, or not any more.
void folio_activate(machine &m, u32 head);
void folio_deactivate(machine &m, u32 head);
// Another round on its list.
void folio_rotate(machine &m, u32 head);
// MADV_FREE: swapbacked no more.
void folio_mark_lazyfree(machine &m, u32 head);
// mlock and munlock: to and from the unevictable list.
void folio_set_mlocked(machine &m, u32 head, bool on);
// A split folio's tails stand behind their head, as if they had aged with it.
void lru_add_split_folio(machine &m, u32 head, u32 tail);
// A folio's head leaves its tails.
void lru_shrink_folio(machine &m, u32 head, u32 nr);
// Empties the batches (lru_add_drain).
void lru_add_drain(machine &m);

} // namespace thp
