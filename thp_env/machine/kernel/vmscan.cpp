#include "vmscan.hpp"
#include "../hardware/tlb.hpp"
#include "contpte.hpp"
#include "huge_memory.hpp"
#include "lazyfree.hpp"
#include "lru.hpp"
#include "memcontrol.hpp"
#include "memory.hpp"
#include "page_alloc.hpp"
#include "page_table.hpp"
#include "rmap.hpp"
#include "shrinker.hpp"
#include "swap.hpp"
#include "workingset.hpp"
#include <algorithm>

namespace thp {

namespace {

constexpr i32 DEF_PRIORITY = 12; // include/linux/mmzone.h: the first pass looks at 1/4096 of each list

struct scan_control {
    u64 nr_to_reclaim;
    u32 memcg;   // the group whose limit asks for it; NIL: for the whole machine
    bool kswapd; // looks at every group, whatever is reclaimed already
    i32 priority = DEF_PRIORITY;
    u64 nr_reclaimed = 0;
    bool may_deactivate[2] = {}; // anonymous memory, files
    bool force_deactivate = false, skipped_deactivate = false;
    bool cache_trim_mode = false;   // there are inactive files enough: anonymous memory is left alone
    bool ignore_references = false; // MADV_PAGEOUT knows better
    bool full_walk = false;         // memcg_full_walk
    u64 anon_cost = 0, file_cost = 0;
};

// shrink_folio_list: what was freed, and what was written for it.
struct reclaim_stat {
    u64 nr_reclaimed = 0, nr_pageout = 0;
};

// Turns every PTE that maps the folio into a swap entry. The folio must not be PMD-mapped any more.
void try_to_unmap(machine &m, u32 head, u32 slot) {
    const u32 nr = folio_nr_pages(m, head);
    for (u32 i = 0; i < nr; ++i) {
        rmap_walk_page(m, head, i, [&](u32 mm, u32, u64 address) {
            u64 *pte = pte_lookup(m, mm, address);
            if (!pte || !pte_present(*pte) || (*pte & PTE_SPECIAL) || pte_pfn(*pte) != head + i) return;
            contpte_try_unfold(m, mm, address, pte);
            *pte = mk_swap_pte(slot + i, m.pages[head + i].flags & PG_anon_exclusive);
            swap_duplicate(m, slot + i, 1);
            ++m.mms[mm].swapents;
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

// folio_check_references: one VMA that used it since the last look gives it another round on the inactive
// list, two, or two rounds, the active one.
outcome folio_check_references(machine &m, u32 head) {
    const u32 referenced_ptes = folio_referenced(m, head);
    page &folio = m.pages[head];
    if (folio.flags & PG_mlocked) return ACTIVATE; // by a locked VMA that maps it
    const bool referenced_folio = folio.flags & PG_referenced;
    folio.flags &= ~u32{PG_referenced};
    if (referenced_ptes == 0) return RECLAIM;
    folio.flags |= PG_referenced;
    return referenced_folio || referenced_ptes > 1 ? ACTIVATE : KEEP;
}

// shrink_folio_list for one folio. SPLIT: its pages are folios of their own now.
outcome shrink_folio(machine &m, const scan_control &sc, u32 head, reclaim_stat &stat) {
    page &folio = m.pages[head];
    const u32 order = folio.order;
    const bool cached = folio.flags & PG_swapcache;
    const i32 mappings = order ? folio.large_mapcount : folio.mapcount;
    if (folio.flags & PG_mlocked) return KEEP;
    if (!sc.ignore_references) {
        const outcome result = folio_check_references(m, head);
        if (result != RECLAIM) return result;
    }
    const bool extra_refs = folio.refcount != mappings + cached; // pinned, or somebody is at it
    if (!(folio.flags & PG_swapbacked)) return shrink_lazyfree(m, head, extra_refs);
    if (extra_refs) return KEEP;
    u32 slot = cached ? folio.swap : NIL;
    if (slot == NIL) {
        if (order && (folio.flags & PG_partially_mapped))
            return split_folio(m, head) == 0 ? SPLIT : ACTIVATE; // R35
        slot = swap_alloc(m, order);
        if (slot == NIL) { // R36
            if (order == 0 || on_cont_pte_lru(m, head) || split_folio(m, head) != 0) return ACTIVATE;
            m.count(MTHP_swpout_fallback, order);
            if (order == PMD_ORDER) m.count(VM_thp_swpout_fallback);
            return SPLIT;
        }
    }
    if (folio.entire_mapcount && !unmap_pmds(m, head)) return KEEP;
    if (!cached || (folio.flags & PG_dirty) || folio_any_pte_dirty(m, head)) { // pageout
        if (!swap_write_folio(m, head, slot)) {
            if (!cached) put_swap_folio(m, slot, 1U << order);
            return KEEP;
        }
        folio.flags &= ~u32{PG_dirty};
        stat.nr_pageout += 1U << order;
    }
    mem_cgroup_charge_swap(m, head, slot);
    workingset_eviction(m, head, slot, sc.memcg != NIL);
    try_to_unmap(m, head, slot);
    for (u32 i = 0; i < (1U << order); ++i) m.swap[slot + i].taken = 0;
    if (cached) {
        delete_from_swap_cache(m, head);
    } else {
        free_unmapped(m, head);
    }
    return RECLAIMED;
}

reclaim_stat shrink_folio_list(machine &m, const scan_control &sc, const std::vector<u32> &folios) {
    // A stack, since split folios are dealt with before the next one: head first, then its tails from the
    // last.
    std::vector<u32> stack(folios.rbegin(), folios.rend());
    reclaim_stat stat;
    while (!stack.empty()) {
        m.host.work();
        const u32 head = stack.back();
        stack.pop_back();
        if (!(m.pages[head].flags & PG_head)) {
            // A page of a split folio that nobody maps any more. Linux still holds it: it takes a slot and
            // gives it back, so the next page gets the slot after (recorded, s30b), and is freed later,
            // uncounted.
            if (const u32 slot = swap_alloc(m, 0); slot != NIL) {
                put_swap_folio(m, slot, 1);
                ++stat.nr_pageout;
            }
            continue;
        }
        const u32 nr = folio_nr_pages(m, head);
        switch (shrink_folio(m, sc, head, stat)) {
        case ACTIVATE:
            if (vm_swap_full(m) || (m.pages[head].flags & PG_mlocked)) folio_free_swap(m, head);
            if (!(m.pages[head].flags & PG_mlocked)) folio_activate(m, head);
            break;
        case RECLAIMED:
            stat.nr_reclaimed += nr;
            break;
        case SPLIT:
            for (u32 i = 1; i < nr; ++i) stack.push_back(head + i);
            stack.push_back(head);
            break;
        default:
            folio_putback_lru(m, head);
        }
    }
    m.count(VM_pgsteal, stat.nr_reclaimed);
    return stat;
}

// isolate_lru_folios: the oldest folios of a list, about nr pages of them.
std::vector<u32> oldest(machine &m, u32 memcg, lru_index list, u64 nr) {
    std::vector<u32> folios;
    u64 scanned = 0;
    for (u32 head = m.memcgs[memcg].lru[list].tail; head != NIL && scanned < nr; head = m.pages[head].prev) {
        m.host.work();
        folios.push_back(head);
        scanned += folio_nr_pages(m, head);
    }
    m.count(VM_pgscan, scanned);
    return folios;
}

bool is_active_lru(lru_index list) {
    return list == LRU_ACTIVE_ANON || list == LRU_ACTIVE_FILE || list == LRU_ACTIVE_CONT;
}

bool is_file_lru(lru_index list) { return list == LRU_INACTIVE_FILE || list == LRU_ACTIVE_FILE; }

u64 shrink_inactive_list(machine &m, const scan_control &sc, u32 memcg, lru_index list, u64 nr) {
    const std::vector<u32> folios = oldest(m, memcg, list, nr);
    u64 nr_scanned = 0;
    for (const u32 head : folios) nr_scanned += folio_nr_pages(m, head);
    const reclaim_stat stat = shrink_folio_list(m, sc, folios);
    lru_note_cost(m, memcg, is_file_lru(list), stat.nr_pageout, nr_scanned - stat.nr_reclaimed);
    return stat.nr_reclaimed;
}

void shrink_active_list(machine &m, u32 memcg, lru_index list, u64 nr) {
    for (const u32 head : oldest(m, memcg, list, nr)) {
        folio_referenced(m, head); // only clears the accessed bits
        folio_deactivate(m, head);
        m.pages[head].flags |= PG_workingset;
    }
}

// Of the lists of small folios, of files, or of 64K folios; of a group or, NIL, of all.
bool inactive_is_low(const machine &m, u32 memcg, lru_index inactive_list) {
    const u64 inactive = lruvec_page_state(m, memcg, inactive_list),
              active = lruvec_page_state(m, memcg, static_cast<lru_index>(inactive_list + 1));
    const u64 gigabytes = (inactive + active) >> (30 - PAGE_SHIFT);
    u64 ratio = 1;
    while (gigabytes && (ratio + 1) * (ratio + 1) <= 10 * gigabytes) ++ratio; // int_sqrt(10 * gb)
    return inactive * ratio < active;
}

lruvec_cost &cost_of(machine &m, u32 memcg) {
    if (memcg == NIL && several_memcgs(m)) return m.h->root_cost;
    return m.memcgs[memcg == NIL ? 0 : memcg].cost;
}

void prepare_scan_control(machine &m, scan_control &sc) {
    if (sc.memcg != NIL) {
        mem_cgroup_flush_stats_ratelimited(m);
    } else {
        mem_cgroup_flush_stats(m); // those of the whole system hardly lag behind
    }
    const lruvec_cost &cost = cost_of(m, sc.memcg);
    const bool refaults = workingset_activations(m, sc.memcg) != cost.refaults;
    sc.anon_cost = cost.anon_cost;
    sc.file_cost = cost.file_cost;
    sc.may_deactivate[0] = sc.force_deactivate || refaults || inactive_is_low(m, sc.memcg, LRU_INACTIVE_ANON);
    sc.may_deactivate[1] = sc.force_deactivate || inactive_is_low(m, sc.memcg, LRU_INACTIVE_FILE);
    sc.cache_trim_mode =
        lruvec_page_state(m, sc.memcg, LRU_INACTIVE_FILE) >> sc.priority && !sc.may_deactivate[1];
}

// get_scan_count: how much of a list one pass looks at.
u64 scan_count(const machine &m, const scan_control &sc, u32 memcg, lru_index list) {
    const u64 size = m.memcgs[memcg].lru[list].nr_pages >> sc.priority;
    const bool file = is_file_lru(list);
    const u64 swappiness = m.memcgs[memcg].swappiness;
    const bool swap =
        m.h->swap_used + 1 < m.h->swap_slots && (swappiness || sc.memcg == NIL); // slot 0 is the header
    if (!swap) return file ? size : 0; // SCAN_FILE (R39: without swap anonymous memory is not scanned)
    if (sc.priority == 0 && swappiness) return size; // SCAN_EQUAL
    if (sc.cache_trim_mode) return file ? size : 0;
    // calculate_pressure_balance: what costs more to reclaim is reclaimed less.
    const u64 costs = sc.anon_cost + sc.file_cost;
    const u64 anon_cost = costs + sc.anon_cost, file_cost = costs + sc.file_cost;
    const u64 anon = swappiness * (anon_cost + file_cost + 1) / (anon_cost + 1);
    const u64 files = (200 - swappiness) * (anon_cost + file_cost + 1) / (file_cost + 1);
    return size * (file ? files : anon) / (anon + files);
}

constexpr lru_index EVICTABLE[] = {LRU_INACTIVE_ANON, LRU_ACTIVE_ANON,   LRU_INACTIVE_FILE,
                                   LRU_ACTIVE_FILE,   LRU_INACTIVE_CONT, LRU_ACTIVE_CONT};

// Once enough is reclaimed: the kind that has more left goes on, up to the same share of its target.
void stop_smaller(u64 *nr, const u64 *targets) {
    const auto remaining = [](const u64 *pages, bool file) {
        return file ? pages[LRU_INACTIVE_FILE] + pages[LRU_ACTIVE_FILE]
                    : pages[LRU_INACTIVE_ANON] + pages[LRU_ACTIVE_ANON] + pages[LRU_INACTIVE_CONT] +
                          pages[LRU_ACTIVE_CONT];
    };
    const bool smaller = remaining(nr, true) <= remaining(nr, false); // whether it is files
    const u64 percentage = remaining(nr, smaller) * 100 / (remaining(targets, smaller) + 1);
    const bool over = remaining(nr, true) == 0 || remaining(nr, false) == 0;
    for (const lru_index list : EVICTABLE) {
        const u64 scanned = targets[list] - nr[list], target = targets[list] * (100 - percentage) / 100;
        nr[list] = over || is_file_lru(list) == smaller || target < scanned ? 0 : target - scanned;
    }
}

u64 shrink_list(machine &m, scan_control &sc, u32 memcg, lru_index list, u64 nr) {
    if (!is_active_lru(list)) return shrink_inactive_list(m, sc, memcg, list, nr);
    const bool may = sc.may_deactivate[is_file_lru(list)];
    sc.skipped_deactivate = sc.skipped_deactivate || !may;
    if (may) shrink_active_list(m, memcg, list, nr);
    return 0;
}

// In steps of SWAP_CLUSTER_MAX pages of each list, until enough is reclaimed (R39).
void shrink_lruvec(machine &m, scan_control &sc, u32 memcg) {
    u64 nr[NR_LRU_LISTS] = {}, targets[NR_LRU_LISTS] = {}, nr_reclaimed = 0;
    for (const lru_index list : EVICTABLE) nr[list] = targets[list] = scan_count(m, sc, memcg, list);
    while (nr[LRU_INACTIVE_ANON] || nr[LRU_INACTIVE_CONT] || nr[LRU_ACTIVE_FILE] || nr[LRU_INACTIVE_FILE]) {
        for (const lru_index list : EVICTABLE) {
            const u64 batch = std::min(nr[list], SWAP_CLUSTER_MAX);
            if (batch == 0) continue;
            nr[list] -= batch;
            nr_reclaimed += shrink_list(m, sc, memcg, list, batch);
        }
        if (nr_reclaimed >= sc.nr_to_reclaim) stop_smaller(nr, targets);
    }
    sc.nr_reclaimed += nr_reclaimed;
    for (const lru_index list : {LRU_INACTIVE_ANON, LRU_INACTIVE_CONT}) {
        if (!m.h->swap_slots || !inactive_is_low(m, memcg, list)) continue;
        shrink_active_list(m, memcg, static_cast<lru_index>(list + 1), SWAP_CLUSTER_MAX);
    }
}

// Direct reclaim for the whole system stops at the group where it has enough, and begins with the next one.
void shrink_node_memcgs(machine &m, scan_control &sc) {
    const u32 n = nr_memcgs(m), first = sc.memcg != NIL ? sc.memcg : sc.kswapd ? 0 : m.h->memcg_iter % n;
    for (u32 i = 0; i < (sc.memcg != NIL ? 1 : n); ++i) {
        const u32 memcg = (first + i) % n;
        shrink_lruvec(m, sc, memcg);
        shrink_slab(m, memcg, sc.priority);
        if (sc.memcg != NIL || sc.kswapd || sc.full_walk || sc.nr_reclaimed < sc.nr_to_reclaim) continue;
        m.h->memcg_iter = (memcg + 1) % n;
        break;
    }
}

u64 do_try_to_free_pages(machine &m, scan_control &sc) {
    if (m.h->in_reclaim) return 0; // PF_MEMALLOC: reclaim does not wait for reclaim
    m.h->in_reclaim = 1;
    lru_add_drain(m);
    // Again where nothing was reclaimed: once the same way (memcg_full_walk), then taking from the active
    // list.
    for (;; sc.full_walk = true) {
        for (sc.priority = DEF_PRIORITY; sc.priority >= 0 && sc.nr_reclaimed < sc.nr_to_reclaim;
             --sc.priority) {
            prepare_scan_control(m, sc);
            shrink_node_memcgs(m, sc);
        }
        cost_of(m, sc.memcg).refaults = workingset_activations(m, sc.memcg); // snapshot_refaults
        if (sc.nr_reclaimed) break;
        if (!sc.full_walk) continue;
        if (!sc.skipped_deactivate) break;
        sc.force_deactivate = true;
        sc.skipped_deactivate = false;
    }
    m.h->in_reclaim = 0;
    return sc.nr_reclaimed;
}

} // namespace

u64 try_to_free_pages(machine &m, u64 nr, bool kswapd) {
    m.count(VM_allocstall);
    scan_control sc{std::max(nr, SWAP_CLUSTER_MAX), NIL, kswapd};
    return do_try_to_free_pages(m, sc);
}

u64 try_to_free_mem_cgroup_pages(machine &m, u32 memcg, u64 nr) {
    scan_control sc{std::max(nr, SWAP_CLUSTER_MAX), memcg, false};
    return do_try_to_free_pages(m, sc);
}

void shrink_cont_pte_folios(machine &m, u32 nr) {
    if (m.h->in_reclaim || m.h->swap_slots == 0) return;
    const u64 pages = u64{nr} * CONT_PTES;
    m.h->in_reclaim = 1;
    scan_control sc{pages, NIL, true};
    for (u32 memcg = 0; memcg < nr_memcgs(m); ++memcg) {
        const lru_list *lru = m.memcgs[memcg].lru;
        // A folio in use has a second chance, so each may be looked at twice.
        const u64 limit = 2 * (lru[LRU_INACTIVE_CONT].nr_pages + lru[LRU_ACTIVE_CONT].nr_pages);
        for (u64 scanned = 0; scanned < limit && sc.nr_reclaimed < pages; scanned += pages) {
            sc.nr_reclaimed += shrink_inactive_list(m, sc, memcg, LRU_INACTIVE_CONT, pages);
            mem_cgroup_flush_stats(m);
            if (inactive_is_low(m, memcg, LRU_INACTIVE_CONT))
                shrink_active_list(m, memcg, LRU_ACTIVE_CONT, pages);
        }
    }
    m.h->in_reclaim = 0;
}

void reclaim_pages(machine &m, const std::vector<u32> &folios) {
    scan_control sc{0, NIL, false};
    sc.ignore_references = true;
    for (const u32 head : folios) { // isolated, and active no more
        lru_del(m, head);
        m.pages[head].flags &= ~u32{PG_active};
    }
    shrink_folio_list(m, sc, folios);
}

} // namespace thp
