// mm/huge_memory.c: __folio_split. Splitting a folio to order 0.
#include "../hardware/tlb.hpp"
#include "cont_pte_hugepage.hpp"
#include "huge_memory.hpp"
#include "lru.hpp"
#include "page_alloc.hpp"
#include "rmap.hpp"
#include <cerrno>
#include <vector>

namespace thp {

namespace {

// R20: a page that is all zero becomes the shared zero page, in every mm, unless it is locked. A locked VMA
// locks it, so that the mms after it keep it, too. Returns whether one did.
bool try_to_map_unused_to_zeropage(machine &m, u32 head, u32 i, bool mlocked) {
    const bool before = mlocked;
    if (mlocked || (m.contents[head + i] & CONTENT_MASK) != 0) return false;
    rmap_walk_page(m, head, i, [&](u32 mm, u32 vma, u64 address) {
        u64 *pte = pte_lookup(m, mm, address);
        if (!pte || !pte_present(*pte) || pte_pfn(*pte) != head + i) return;
        mlocked = mlocked || (m.vmas[vma].vm_flags & VM_LOCKED);
        if (mlocked) return;
        *pte = mk_pte(m.h->zero_pfn, PTE_SPECIAL | (*pte & (PTE_PRESENT | PTE_PROTNONE)));
        --m.mms[mm].rss;
        --m.pages[head + i].mapcount;
    });
    return mlocked != before;
}

void flush_folio(machine &m, u32 head, u32 nr) {
    for (u32 i = 0; i < nr; ++i) {
        if (m.pages[head + i].mapcount == 0) continue;
        rmap_walk_page(m, head, i, [&](u32 mm, u32, u64 address) {
            u64 *pte = pte_lookup(m, mm, address);
            if (pte && pte_present(*pte) && pte_pfn(*pte) == head + i)
                contpte_try_unfold(m, mm, address, pte);
            flush_tlb_range(m, mm, address, address + PAGE_SIZE);
        });
    }
}

} // namespace

bool unmap_pmds(machine &m, u32 head) {
    bool done = true;
    while (done && m.pages[head].entire_mapcount > 0) {
        done = false;
        rmap_walk_page(m, head, 0, [&](u32 mm, u32 vma, u64 address) {
            u64 *pmd = pmd_offset(m, mm, address);
            if (done || !pmd || pte_none(*pmd)) return;
            if (pmd_trans_huge(*pmd)) {
                done = pte_pfn(*pmd) == head && split_huge_pmd(m, vma, pmd, address);
                return;
            }
            u64 *pte = pte_offset(m, *pmd, address);
            done = (*pte & PTE_CONT) && pte_pfn(*pte) == head;
            contpte_try_unfold(m, mm, address, pte);
        });
    }
    return m.pages[head].entire_mapcount == 0;
}

int split_folio(machine &m, u32 head) {
    const attribute_time_to scope(m, m.h->config.time_by_vma ? folio_owner(m, head) : NIL);
    page &folio = m.pages[head];
    const u32 order = folio.order, nr = 1U << order;
    const bool pmd_order = order == PMD_ORDER, pte_mapped = folio.nr_pages_mapped % ENTIRELY_MAPPED > 1;
    if (folio.refcount != folio.large_mapcount || !unmap_pmds(m, head)) {
        m.count(MTHP_split_failed, order);
        if (pmd_order) m.count(VM_thp_split_page_failed);
        return -EAGAIN;
    }
    m.spend(TIME_splitting, m.cost().split_folio + m.cost().split_page * nr);
    flush_folio(m, head, nr);
    // unmap_folio takes PTEs away one by one, which makes the folio partially mapped on the way; a PMD goes
    // at once (R21).
    if (pte_mapped) deferred_split_folio(m, head, true);
    folio_unqueue_deferred_split(m, head);
    m.count(MTHP_nr_anon, order, -1);
    m.count(MTHP_split, order);
    if (pmd_order) m.count(VM_thp_split_page);

    huge_page_pool_split(m, head);
    lru_shrink_folio(m, head, nr - 1);
    const page whole = folio;
    const u32 dirty = folio_any_pte_dirty(m, head) ? u32{PG_dirty} : folio.flags & PG_dirty;
    const bool mlocked = whole.flags & PG_mlocked;
    std::vector<u32> locked;
    for (u32 k = 1; k <= nr; ++k) { // the head comes last
        const u32 i = k % nr;
        if (m.pages[head + i].mapcount && try_to_map_unused_to_zeropage(m, head, i, mlocked))
            locked.push_back(head + i);
    }
    for (u32 i = 0; i < nr; ++i) {
        page &p = m.pages[head + i];
        const u32 own = p.flags & PG_anon_exclusive;
        p.flags = PG_head | dirty | own |
                  (whole.flags & (PG_anon | PG_swapbacked | PG_mlocked | PG_charged | ~0U << MEMCG_SHIFT)) |
                  (i ? 0U : whole.flags & (PG_lru | PG_active | PG_referenced | PG_workingset));
        p.order = 0;
        p.tail = 0;
        p.tails = 0;
        p.refcount = p.mapcount;
        p.anon_vma = whole.anon_vma;
        p.index = whole.index + i;
        p.large_mapcount = 0;
        p.entire_mapcount = p.nr_pages_mapped = 0;
        p.mm_id[0] = p.mm_id[1] = p.mm_id_mapcount[0] = p.mm_id_mapcount[1] = 0;
        p.deferred_next = p.deferred_prev = NIL;
        if (i) lru_add_split_folio(m, head, head + i);
    }
    for (const u32 page : locked) folio_set_mlocked(m, page, true);
    // Pages that nobody maps any more go back to the buddy allocator.
    mod_memory(m, VM_nr_unmapped, i64{whole.nr_pages_mapped} - i64{nr});
    for (u32 i = 0; i < nr; ++i) {
        if (m.pages[head + i].mapcount == 0) folio_put(m, head + i, 0);
    }
    return 0;
}

void split_folios_in_range(machine &m, u32 mm, u64 start, u64 end) {
    walk_pmd_range(m, mm, start, end, [&](u64 at, u64 next, const u64 *) {
        for (; at < next; at += PAGE_SIZE) {
            const u64 entry = follow_entry(m, mm, at);
            if (!pte_present(entry) || (entry & PTE_SPECIAL)) continue;
            const u32 head = page_head(m, pte_pfn(entry));
            if (m.pages[head].order) split_folio(m, head);
        }
        return true;
    });
}

} // namespace thp
