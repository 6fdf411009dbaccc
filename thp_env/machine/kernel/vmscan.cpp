#include "vmscan.hpp"
#include "../hardware/tlb.hpp"
#include "contpte.hpp"
#include "huge_memory.hpp"
#include "page_alloc.hpp"
#include "page_table.hpp"
#include "rmap.hpp"
#include "swap.hpp"

namespace thp {

namespace {

// The last two, with reclaim_whole, hold 64K folios, which reclaim never splits.
enum lru_index : u32 { LRU_INACTIVE, LRU_ACTIVE, LRU_LAZYFREE, LRU_CONT_INACTIVE, LRU_CONT_ACTIVE };

constexpr u64 FLUSH_TIME = 2'000'000'000'000; // mm/memcontrol.c: FLUSH_TIME, ps

lru_list &list_of(machine &m, u32 head) {
    const u32 flags = m.pages[head].flags;
    if (!(flags & PG_swapbacked)) return m.h->lru[LRU_LAZYFREE];
    const u32 list = flags & PG_active ? LRU_ACTIVE : LRU_INACTIVE;
    return m.h->lru[list + (on_cont_pte_lru(m, head) ? u32{LRU_CONT_INACTIVE} : 0)];
}

void link(machine &m, lru_list &list, u32 head, u32 prev, u32 next) {
    m.pages[head].prev = prev;
    m.pages[head].next = next;
    (prev != NIL ? m.pages[prev].next : list.head) = head;
    (next != NIL ? m.pages[next].prev : list.tail) = head;
    m.pages[head].flags |= PG_lru;
}

// Turns every PTE that maps the folio into a swap entry, or into nothing where slot is NIL: a lazily freed
// folio is dropped. The folio must not be PMD-mapped any more.
void try_to_unmap(machine &m, u32 head, u32 slot) {
    const u32 nr = folio_nr_pages(m, head);
    for (u32 i = 0; i < nr; ++i) {
        rmap_walk_page(m, head, i, [&](u32 mm, u32, u64 address) {
            u64 *pte = pte_lookup(m, mm, address);
            if (!pte || !pte_present(*pte) || (*pte & PTE_SPECIAL) || pte_pfn(*pte) != head + i) return;
            if (slot != NIL)
                contpte_try_unfold(m, mm, address, pte); // a lazily freed folio goes in one batch
            *pte = slot == NIL ? 0 : mk_swap_pte(slot + i, m.pages[head + i].flags & PG_anon_exclusive);
            if (slot != NIL) {
                swap_duplicate(m, slot + i, 1);
                ++m.mms[mm].swapents;
            }
            --m.mms[mm].rss;
            page &folio = m.pages[head];
            // In the swap cache by now, so that R14 does not see it go page by page.
            --m.pages[head + i].mapcount;
            if (folio.order) --folio.large_mapcount;
            --folio.refcount;
            flush_tlb_range(m, mm, address, address + PAGE_SIZE);
        });
    }
}

// Frees a folio whose last mapping is gone.
void free_unmapped(machine &m, u32 head) {
    page &folio = m.pages[head];
    if (folio.order) {
        mod_memory(m, VM_nr_unmapped, folio.nr_pages_mapped);
        folio.nr_pages_mapped = 0;
    }
    folio_put(m, head, 0);
}

enum outcome : u32 { DONE, SPLIT };

// shrink_folio_list for one folio. DONE: it is freed, or kept for a reason. SPLIT: its pages are folios of
// their own now, the head comes first.
outcome shrink_folio(machine &m, u32 head) {
    page &folio = m.pages[head];
    const u32 order = folio.order;
    if (folio.pincount || (folio.flags & PG_mlocked)) return DONE;
    if (!(folio.flags & PG_swapbacked)) { // R32: lazily freed
        if (folio_any_pte_dirty(m, head) || (folio.flags & PG_dirty)) {
            lru_del(m, head);
            folio.flags |= PG_swapbacked | PG_active;
            lru_add(m, head);
            m.h->last_activation = m.h->clock;
            return DONE;
        }
        if (folio.entire_mapcount && !unmap_pmds(m, head)) return DONE;
        const u32 nr = folio_nr_pages(m, head);
        try_to_unmap(m, head, NIL);
        m.count(VM_pglazyfreed, nr);
        free_unmapped(m, head);
        return DONE;
    }
    u32 slot = folio.flags & PG_swapcache ? folio.swap : NIL;
    if (slot == NIL) {
        if (order && (folio.flags & PG_partially_mapped))
            return split_folio(m, head) == 0 ? SPLIT : DONE; // R35
        slot = swap_alloc(m, order);
        if (slot == NIL) { // R36
            if (order == 0 || on_cont_pte_lru(m, head) || split_folio(m, head) != 0) return DONE;
            m.count(MTHP_swpout_fallback, order);
            if (order == PMD_ORDER) m.count(VM_thp_swpout_fallback);
            return SPLIT;
        }
    }
    if (folio.entire_mapcount && !unmap_pmds(m, head)) return DONE;
    const bool cached = folio.flags & PG_swapcache;
    if (!cached) swap_write_folio(m, head, slot);
    try_to_unmap(m, head, slot);
    for (u32 i = 0; i < (1U << order); ++i) m.swap[slot + i].taken = 0;
    if (cached) {
        delete_from_swap_cache(m, head);
    } else {
        free_unmapped(m, head);
    }
    return DONE;
}

} // namespace

void lru_add(machine &m, u32 head) {
    lru_list &list = list_of(m, head);
    link(m, list, head, NIL, list.head);
}

void lru_del(machine &m, u32 head) {
    page &folio = m.pages[head];
    if (!(folio.flags & PG_lru)) return;
    lru_list &list = list_of(m, head);
    (folio.prev != NIL ? m.pages[folio.prev].next : list.head) = folio.next;
    (folio.next != NIL ? m.pages[folio.next].prev : list.tail) = folio.prev;
    folio.flags &= ~u32{PG_lru};
}

void folio_deactivate(machine &m, u32 head) {
    lru_del(m, head);
    m.pages[head].flags &= ~u32{PG_active};
    lru_list &list = list_of(m, head);
    link(m, list, head, list.tail, NIL);
}

void lru_add_split_folio(machine &m, u32 head, u32 tail) {
    const u32 prev = m.pages[head].prev;
    m.pages[tail].flags |= m.pages[head].flags & PG_active;
    link(m, list_of(m, head), tail, prev, head);
}

void reclaim_folios(machine &m, const std::vector<u32> &folios) {
    // A stack, since split folios are dealt with before the next one: head first, then its tails from the
    // last.
    std::vector<u32> stack(folios.rbegin(), folios.rend());
    while (!stack.empty()) {
        const u32 head = stack.back();
        stack.pop_back();
        if (!(m.pages[head].flags & PG_head)) {
            // A page of a split folio that nobody maps any more. Linux still holds it: it takes a slot, gives
            // it back and is freed, so the next page gets the slot after (recorded, s30b).
            const u32 slot = swap_alloc(m, 0);
            if (slot != NIL) m.swap[slot].taken = 0;
            if (slot != NIL) swap_put(m, slot);
            continue;
        }
        const u32 nr = folio_nr_pages(m, head);
        if (shrink_folio(m, head) != SPLIT) continue;
        for (u32 i = 1; i < nr; ++i) stack.push_back(head + i);
        stack.push_back(head);
    }
}

void shrink_cont_pte_folios(machine &m, u32 nr) {
    if (m.h->swap_slots == 0) return;
    std::vector<u32> folios;
    for (const u32 list : {LRU_CONT_INACTIVE, LRU_CONT_ACTIVE}) {
        for (u32 head = m.h->lru[list].tail; head != NIL && folios.size() < nr; head = m.pages[head].prev) {
            folios.push_back(head);
        }
    }
    reclaim_folios(m, folios);
}

void force_empty(machine &m) {
    for (const u32 list : {LRU_LAZYFREE, LRU_INACTIVE, LRU_CONT_INACTIVE, LRU_ACTIVE, LRU_CONT_ACTIVE}) {
        if (list != LRU_LAZYFREE && m.h->swap_slots == 0)
            continue; // without swap anonymous memory is not scanned
        // inactive_is_low() asks statistics that are flushed every 2 s: what became active since stays
        // (recorded, m03).
        if ((list == LRU_ACTIVE || list == LRU_CONT_ACTIVE) && m.h->clock - m.h->last_activation < FLUSH_TIME)
            continue;
        std::vector<u32> folios;
        for (u32 head = m.h->lru[list].tail; head != NIL; head = m.pages[head].prev) folios.push_back(head);
        reclaim_folios(m, folios);
    }
    deferred_split_scan(m);
}

} // namespace thp
