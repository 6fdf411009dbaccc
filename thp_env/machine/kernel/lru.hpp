// mm/swap.c: the LRU lists, and the batches in front of them.
#pragma once
#include "contpte.hpp"

namespace thp {

// reclaim_whole: 64K folios stand on lists of their own, and reclaim never splits them.
inline bool on_cont_pte_lru(const machine &m, u32 head) {
    return feature(m, FEATURE_reclaim_whole) && m.pages[head].order == CONT_PTE_ORDER;
}
constexpr u64 SWAP_CLUSTER_MAX = 32; // include/linux/swap.h: pages

// Which list a folio belongs to.
lru_index folio_lru_list(const machine &m, u32 head);

// A list runs from its head, the newest folio, to its tail, the next to be reclaimed. New folios enter the
// inactive list. Lazily freed ones stand with the files (R32).
void lru_add(machine &m, u32 head);
// The same for a folio that a VMA maps, which may be locked.
void folio_add_lru_vma(machine &m, u32 head, u32 vma);
void lru_del(machine &m, u32 head);
// A folio that turned out to be in use, or not any more.
void folio_activate(machine &m, u32 head);
void folio_deactivate(machine &m, u32 head);
// A folio that the kernel touched for a process: in use from the second time on.
void folio_mark_accessed(machine &m, u32 head);
// To the head of its list.
void folio_putback_lru(machine &m, u32 head);
// MADV_FREE: swapbacked no more.
void folio_mark_lazyfree(machine &m, u32 head);
// mlock and munlock: to and from the unevictable list.
void folio_set_mlocked(machine &m, u32 head, bool on);
// A split folio's tails stand behind their head, as if they had aged with it.
void lru_add_split_folio(machine &m, u32 head, u32 tail);
// A folio's head leaves its tails.
void lru_shrink_folio(machine &m, u32 head, u32 nr);
// What it cost to reclaim pages of one kind from a group: pages written or read again, and pages that stayed.
void lru_note_cost(machine &m, u32 memcg, bool file, u64 nr_io, u64 nr_rotated);
// Empties the batches (lru_add_drain).
void lru_add_drain(machine &m);

} // namespace thp
