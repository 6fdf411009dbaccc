// mm/rmap.c: which page-table entries map a folio, and the counts of them.
#pragma once
#include "../state.hpp"
#include "page_table.hpp"
#include <algorithm>

namespace thp {

// The anon_vma of a VMA, made at its first anonymous fault (a neighbour's if the two could merge).
bool anon_vma_prepare(machine &m, u32 vma);
void anon_vma_link(machine &m, u32 vma, u32 anon);
void anon_vma_unlink(machine &m, u32 vma);
// The VMA has got other bounds (vma_prepare, vma_complete), which makes it the newest of those that start
// where it does.
void anon_vma_update(machine &m, u32 vma);
// A child's VMA: an anon_vma of its own in the family of the parent's.
bool anon_vma_fork(machine &m, u32 vma, u32 parent);
// Whether no parent process shares the VMA's anon_vma (its anon_vma_chain has one entry).
inline bool anon_vma_singular(const machine &m, u32 anon) { return m.anon_vmas[anon].root == anon; }

// A new folio that only this mm maps: all its pages by PTEs, or the whole by one PMD (or, with
// entire_mapcount, one folded block, which the functions for PMDs count, too).
void folio_add_new_anon_rmap(machine &m, u32 head, u32 vma, u64 address, bool pmd);
// Further mappings of `nr` pages from `pfn` on by PTEs.
void folio_add_anon_rmap_ptes(machine &m, u32 pfn, u32 nr, u32 mm);
void folio_add_anon_rmap_pmd(machine &m, u32 head, u32 mm);
// Whether the folio looks mapped by more than one process (R27).
bool folio_maybe_mapped_shared(machine &m, u32 head);
// Takes mappings away; queues the folio for splitting when this leaves it partially mapped (R13, R14).
void folio_remove_rmap_ptes(machine &m, u32 pfn, u32 nr, u32 mm);
void folio_remove_rmap_pmd(machine &m, u32 head, u32 mm);

// The first VMA that may map the folio's first page, which pays for what happens to it; NIL: none.
u32 folio_owner(const machine &m, u32 head);

inline bool folio_mapped(const machine &m, u32 head) {
    const page &folio = m.pages[head];
    return folio.order ? folio.large_mapcount > 0 : folio.mapcount > 0;
}

// Mappings of pages: an entire mapping of a folded block is one of each page.
inline i32 folio_mapcount(const machine &m, u32 head) {
    const page &folio = m.pages[head];
    if (folio.order == 0) return folio.mapcount;
    const i32 further = folio.order == PMD_ORDER ? 0 : (1 << folio.order) - 1;
    return folio.large_mapcount + folio.entire_mapcount * further;
}

// In how many VMAs the folio was accessed since the last call; clears the accessed bits. A locked VMA that
// maps the whole of it locks it, and ends the search.
u32 folio_referenced(machine &m, u32 head);

// Whether any entry that maps the folio, in any process, is dirty.
bool folio_any_pte_dirty(machine &m, u32 head);

// vma_address: where page `i` of a folio has its place in a VMA.
inline u64 folio_address(const machine &m, u32 head, u32 i, u32 vma) {
    return m.vmas[vma].vm_start + ((m.pages[head].index + i - m.vmas[vma].vm_pgoff) << PAGE_SHIFT);
}

// folio_lock_anon_vma_read: the first VMA of the folio's anon_vma; NIL where nothing maps the folio, since
// its anon_vma may be gone.
inline u32 folio_first_vma(const machine &m, u32 head) {
    const u32 anon = m.pages[head].anon_vma;
    return anon == NIL || !folio_mapped(m, head) ? NIL : m.anon_vmas[anon].head;
}

// rmap_walk_anon: calls visit(vma, i, nr) for each VMA that has room for pages i to i + nr of the folio, by
// their first page and then by age, until it returns false.
template <typename Machine, typename Visit> void rmap_walk(Machine &m, u32 head, Visit visit) {
    const page &folio = m.pages[head];
    const u64 first = folio.index, end = first + (1ULL << folio.order);
    for (u32 next = NIL, v = folio_first_vma(m, head); v != NIL; v = next) {
        const vm_area_struct &vma = m.vmas[v];
        next = vma.anon_next;
        const u64 from = std::max(first, vma.vm_pgoff);
        const u64 to = std::min(end, vma.vm_pgoff + ((vma.vm_end - vma.vm_start) >> PAGE_SHIFT));
        if (from < to && !visit(v, static_cast<u32>(from - first), static_cast<u32>(to - from))) return;
    }
}

// Calls visit(mm, vma, address) for each address at which a VMA of the folio's anon_vma holds page `i` of it.
template <typename Machine, typename Visit> void rmap_walk_page(Machine &m, u32 head, u32 i, Visit visit) {
    const u64 index = m.pages[head].index + i;
    for (u32 next = NIL, v = folio_first_vma(m, head); v != NIL; v = next) {
        const vm_area_struct &vma = m.vmas[v];
        next = vma.anon_next;
        const u64 pages = (vma.vm_end - vma.vm_start) >> PAGE_SHIFT;
        if (index >= vma.vm_pgoff && index < vma.vm_pgoff + pages) {
            visit(vma.vm_mm, v, vma.vm_start + ((index - vma.vm_pgoff) << PAGE_SHIFT));
        }
    }
}

} // namespace thp
