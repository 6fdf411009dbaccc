// mm/madvise.c: advice that acts on pages: MADV_FREE, MADV_COLD, MADV_PAGEOUT (R31-R33).
#include "../hardware/tlb.hpp"
#include "contpte.hpp"
#include "huge_memory.hpp"
#include "lru.hpp"
#include "madvise.hpp"
#include "memory.hpp"
#include "page_alloc.hpp"
#include "page_table.hpp"
#include "rmap.hpp"
#include "swap.hpp"
#include "vmscan.hpp"
#include <algorithm>
#include <cerrno>
#include <vector>

namespace thp {

namespace {

struct advised {
    machine &m;
    u32 mm;
    u64 advice;
    std::vector<u32> pageout; // folios to reclaim when the walk of a page table is over

    static constexpr u64 YOUNG_DIRTY = PTE_ACCESSED | PTE_DIRTY;

    void free_folio(u32 head, u64 *entry, u32 nr) {
        page &folio = m.pages[head];
        if (folio.flags & (PG_swapcache | PG_dirty)) {
            const i32 mapcount = folio_mapcount(m, head);
            if (mapcount != static_cast<i32>(entry[0] & PTE_PSE ? 1 : folio_nr_pages(m, head))) return;
            if ((folio.flags & PG_swapcache) && !folio_free_swap(m, head)) return;
            folio.flags &= ~u32{PG_dirty};
        }
        clear_young_dirty_ptes(m, entry, nr, YOUNG_DIRTY);
        if ((folio.flags & PG_swapbacked) && !(folio.flags & (PG_swapcache | PG_mlocked))) {
            folio_mark_lazyfree(m, head);
        }
    }

    void cold_or_pageout(u32 head, u64 *entry, u32 nr) {
        page &folio = m.pages[head];
        clear_young_dirty_ptes(m, entry, nr, PTE_ACCESSED);
        folio.flags &= ~u32{PG_referenced};
        if (folio.flags & PG_active) folio.flags |= PG_workingset;
        if (advice == MADV_COLD) {
            folio_deactivate(m, head);
        } else if (!(folio.flags & PG_mlocked)) {
            pageout.push_back(head);
        }
    }

    // A PMD map, whole or in part; true when the range is done.
    bool huge(u64 *pmd, bool whole) {
        if (*pmd & PTE_SPECIAL) return true;
        const u32 head = pte_pfn(*pmd);
        if (folio_maybe_mapped_shared(m, head)) return true;
        if (!whole) return split_folio(m, head) != 0;
        if (advice == MADV_FREE) {
            free_folio(head, pmd, 1);
        } else {
            cold_or_pageout(head, pmd, 1);
        }
        return true;
    }

    void ptes(u64 *pte, u32 count) {
        u32 nr = 1;
        for (u32 i = 0; i < count; i += nr) {
            nr = 1;
            if (pte_none(pte[i])) continue;
            if (!pte_present(pte[i])) {
                if (advice == MADV_FREE && is_swap_pte(pte[i])) {
                    nr = swap_pte_batch(pte + i, count - i);
                    m.mms[mm].swapents -= nr;
                    swap_free(m, pte_swp_offset(pte[i]), nr);
                    std::fill_n(pte + i, nr, 0);
                }
                continue;
            }
            if (pte[i] & PTE_SPECIAL) continue;
            const u32 head = page_head(m, pte_pfn(pte[i]));
            const page &folio = m.pages[head];
            if (folio.flags & PG_file) continue;
            if (folio.order) {
                nr = folio_pte_batch(m, pte + i, count - i);
                if (nr < folio_nr_pages(m, head)) { // R31
                    if (!folio_maybe_mapped_shared(m, head) && split_folio(m, head) == 0) nr = 0;
                    continue;
                }
            }
            if (advice == MADV_FREE) {
                free_folio(head, pte + i, nr);
                continue;
            }
            const i32 mapcount = folio_mapcount(m, head);
            if (mapcount == static_cast<i32>(folio_nr_pages(m, head))) cold_or_pageout(head, pte + i, nr);
        }
    }
};

} // namespace

int madvise_pages(machine &m, u32 vma, u64 start, u64 end, u64 advice) {
    if (m.vmas[vma].vm_flags & VM_LOCKED) return -EINVAL;
    if (advice == MADV_FREE && m.vmas[vma].vm_file) return -EINVAL;
    const u32 mm = m.vmas[vma].vm_mm;
    lru_add_drain(m);
    walk_pmd_range(m, mm, start, end, [&](u64 at, u64 next, u64 *pmd) {
        advised walk{m, mm, advice, {}};
        const bool done = pmd_trans_huge(*pmd) && walk.huge(pmd, next - at == PMD_SIZE);
        if (!done && pmd_is_table(*pmd))
            walk.ptes(pte_offset(m, *pmd, at), static_cast<u32>((next - at) >> PAGE_SHIFT));
        flush_tlb_range(m, mm, at, next, pmd_trans_huge(*pmd) ? PMD_SHIFT : PAGE_SHIFT);
        reclaim_pages(m, walk.pageout);
        return true;
    });
    return 0;
}

} // namespace thp
