// mm/memory.c: page faults, copy on write, unmapping.
#pragma once
#include "../state.hpp"
#include "huge_memory.hpp"
#include "page_table.hpp"
#include <algorithm>

namespace thp {

// A fault of the process at a mapped address whose VMA permits the access. Counts one fault, unless it has
// to wait for an order: then nothing has happened.
vm_fault handle_mm_fault(machine &m, u32 vma, u64 address, bool write);

// The two kinds of fault on an entry that is there: swapped out, or not writable.
vm_fault do_swap_page(machine &m, u32 vma, u64 address, u64 *pte, bool write);
vm_fault do_wp_page(machine &m, u32 vma, u64 address, u64 *pte);

// Unmaps [start, end) of one VMA (R13, R15). dontneed: tables that this empties are freed (R3), guards stay.
// False when splitting a PMD found no memory, or when `call` says how far it has come; called again it goes
// on.
bool zap_page_range(machine &m, u32 vma, u64 start, u64 end, bool dontneed, call_progress *call = nullptr);

inline bool pte_range_none(const u64 *pte, u32 nr) {
    return std::all_of(pte, pte + nr, [](u64 entry) { return entry == 0; });
}
// Whether a write to an entry may get more than its page (zero_cow).
inline bool grows_at_cow(const machine &m, u64 entry) {
    return feature(m, FEATURE_zero_cow) && pte_present(entry) && (entry & PTE_SPECIAL);
}
// Whether a write may get a folio over these entries: they are empty or, if it grows, map zero pages.
inline bool pte_range_replaceable(const u64 *pte, u32 nr, bool zero_pages) {
    return std::all_of(pte, pte + nr, [zero_pages](u64 entry) {
        return entry == 0 || (zero_pages && pte_present(entry) && (entry & PTE_SPECIAL));
    });
}
// How many PTEs from `pte` on map consecutive pages of one folio (folio_pte_batch).
u32 folio_pte_batch(const machine &m, const u64 *pte, u32 max);

// Whether the fault could get a folio larger than a page if the VMA's own mask allowed it.
bool fault_has_choice(machine &m, const vm_area_struct &vma, u64 address, u64 pmd);

// Maps a new folio, writable where the VMA is; the caller's reference becomes the first page's.
void map_anon_folio_pte(machine &m, u32 vma, u32 head, u64 address, u64 *pte, bool dirty = true);
// Takes a batch of PTEs of one folio away, with their mappings and references.
void unmap_folio_ptes(machine &m, u32 mm, u64 address, u64 *pte, u32 nr);

// The protection bits of a new PTE.
u64 vma_pte_bits(const vm_area_struct &vma, bool writable);

} // namespace thp
