// mm/swapfile.c, mm/swap_state.c: swap slots, their clusters, and the swap cache.
#pragma once
#include "../state.hpp"
#include "page_table.hpp"

namespace thp {

int swapon(machine &m, u64 bytes);
// Brings every page back, as order 0. -ENOMEM: not all fit, swap stays on.
int swapoff(machine &m);

// 2^order contiguous, naturally aligned slots, or NIL. Each order fills clusters of its own (R34).
u32 swap_alloc(machine &m, u32 order);
// Changes how many page-table entries refer to each of nr slots; slots that nobody refers to are freed.
void swap_duplicate(machine &m, u32 slot, u32 nr);
void swap_free(machine &m, u32 slot, u32 nr);
void swap_put(machine &m, u32 slot);               // a slot whose count is zero already
void put_swap_folio(machine &m, u32 slot, u32 nr); // allocated, but never referred to
// Whether more than half of the swap space is used: then pages in memory give up their slots.
inline bool vm_swap_full(const machine &m) {
    return 2 * m.h->swap_used >= m.h->swap_slots;
} // slot 0 is the header
inline u32 swap_count(const machine &m, u32 slot) { return m.swap[slot].count; }

// Slot in a non-present entry.
inline bool is_swap_pte(u64 pte) { return (pte & PTE_SWAP) && !pte_present(pte); }
inline u32 pte_swp_offset(u64 pte) { return pte_pfn(pte); }
inline u64 mk_swap_pte(u32 slot, bool exclusive) {
    return mk_pte(slot, PTE_SWAP | (exclusive ? u64{PTE_SWP_EXCLUSIVE} : 0));
}
// How many entries from `pte` on hold consecutive slots (swap_pte_batch).
u32 swap_pte_batch(const u64 *pte, u32 max);

// The page in the swap cache for a slot, or NIL.
inline u32 swap_cache_get(const machine &m, u32 slot) {
    return m.swap[slot].cached ? m.swap[slot].cached - 1 : NIL;
}
// Reads one slot into the swap cache; NIL when memory is exhausted.
u32 read_swap_cache(machine &m, u32 slot);
// The same for the page of a fault, with its neighbours in the VMA's window; and what a hit tells that
// window.
u32 swapin_readahead(machine &m, u32 vma, u64 address, u64 *pte);
void swap_update_readahead(machine &m, u32 vma, u64 address, u32 head);
// Maps a page of the swap cache in place of the entry that refers to it.
void map_cached_page(machine &m, u32 vma, u64 address, u64 *pte, u32 head, bool exclusive);
void add_to_swap_cache(machine &m, u32 pfn, u32 slot);
// Takes a page out of the cache if no entry refers to its slot any more (folio_free_swap).
bool folio_free_swap(machine &m, u32 head);
// For who took a mapping away: if it was the last one, and no entry refers to the slot, the cache goes, too.
void free_swap_cache(machine &m, u32 head);
void delete_from_swap_cache(machine &m, u32 head);

// Of `orders`, those of which the block around an address can be swapped in as one folio (R40, R42).
u32 swapin_orders(const machine &m, const vm_area_struct &vma, u64 address, const u64 *pte, u32 orders);

// Reads a slot's content into a page; counts the pages read.
void swap_read_page(machine &m, u32 slot, u32 pfn);
// Writes a folio's pages to slots from `slot` on (R34, R37); false when there is no memory to keep them in
// (R47).
bool swap_write_folio(machine &m, u32 head, u32 slot);

} // namespace thp
