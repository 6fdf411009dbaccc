#include "page_alloc.hpp"
#include "compaction.hpp"
#include "cont_pte_hugepage.hpp"
#include "huge_memory.hpp"
#include "kswapd.hpp"
#include "lru.hpp"
#include "memcontrol.hpp"
#include "psi.hpp"
#include "vmscan.hpp"
#include <algorithm>

namespace thp {

namespace {

constexpr u32 MAX_RECLAIM_RETRIES = 16; // rounds of reclaim without any progress, in a row
constexpr u32 MAX_COMPACT_RETRIES = 16; // rounds of compaction for an order that is not costly

u32 get_page_from_freelist(machine &m, u32 order, u32 type, u32 mark) {
    if (!zone_watermark_ok(m, order, mark)) return NIL;
    const u32 pfn = rmqueue(m, order, type);
    if (pfn != NIL) m.count(VM_pgalloc, 1ULL << order);
    return pfn;
}

u32 direct_compact(machine &m, u32 order, u32 type, migrate_mode mode, compact_result *result) {
    const psi_memstall stall(m);
    *result = try_to_compact_pages(m, order, mode);
    if (*result == COMPACT_SKIPPED) return NIL;
    const u32 pfn = get_page_from_freelist(m, order, type, m.h->zone.watermark[WMARK_MIN]);
    count_direct_compact(m, order, pfn != NIL);
    return pfn;
}

// Whether reclaim may go on: it makes progress, and what it could reclaim at best would do (R46).
bool should_reclaim_retry(const machine &m, u32 order, bool progress, u32 *no_progress_loops) {
    const bool costly = order > PAGE_ALLOC_COSTLY_ORDER;
    *no_progress_loops = progress && !costly ? 0 : *no_progress_loops + 1;
    if (*no_progress_loops > MAX_RECLAIM_RETRIES) return false;
    const u64 available = zone_reclaimable_pages(m) + m.h->zone.nr_free;
    return available > m.h->zone.watermark[WMARK_MIN] + (1U << order) - 1;
}

// __alloc_pages_slowpath: below the low watermark, or for want of a block, with whatever the caller allows.
u32 alloc_pages_slowpath(machine &m, u32 order, u32 type, u32 gfp) {
    if (m.h->in_reclaim || (gfp & GFP_ATOMIC)) { // what frees memory, or cannot fail, may use the reserve
        const u32 pfn = rmqueue(m, order, type);
        if (pfn != NIL) m.count(VM_pgalloc, 1ULL << order);
        return pfn;
    }
    const u32 min = m.h->zone.watermark[WMARK_MIN];
    if (gfp & GFP_KSWAPD_RECLAIM) wakeup_kswapd(m, order);
    u32 pfn = get_page_from_freelist(m, order, type, min);
    if (pfn != NIL || !(gfp & GFP_DIRECT_RECLAIM)) return pfn;
    const bool costly = order > PAGE_ALLOC_COSTLY_ORDER;
    compact_result result = COMPACT_CONTINUE;
    if (costly) {
        pfn = direct_compact(m, order, type, COMPACT_ASYNC, &result);
        if (pfn != NIL) return pfn;
        // Reclaim would take too much of the machine for one that gives up easily.
        if ((gfp & GFP_NORETRY) && (result == COMPACT_SKIPPED || result == COMPACT_DEFERRED)) return NIL;
    }
    const psi_memstall stall(m);
    for (u32 no_progress_loops = 0, compactions = 0;;) {
        const u64 reclaimed = try_to_free_pages(m, 1ULL << order);
        if (reclaimed) m.h->zone.kswapd_failures = 0;
        pfn = get_page_from_freelist(m, order, type, min);
        if (pfn == NIL && order) pfn = direct_compact(m, order, type, COMPACT_SYNC_LIGHT, &result);
        if (pfn != NIL || costly || (gfp & GFP_NORETRY)) return pfn;
        if (order && (!reclaimed || ++compactions > MAX_COMPACT_RETRIES)) return NIL; // should_compact_retry
        if (!should_reclaim_retry(m, order, reclaimed > 0, &no_progress_loops)) return NIL;
    }
}

u64 int_sqrt(u64 x) {
    u64 root = 0;
    for (u64 bit = 1ULL << 31; bit; bit >>= 1) {
        if ((root + bit) * (root + bit) <= x) root += bit;
    }
    return root;
}

} // namespace

u32 alloc_pages(machine &m, u32 order, u32 migratetype, u32 gfp) {
    const u32 pfn = get_page_from_freelist(m, order, migratetype, m.h->zone.watermark[WMARK_LOW]);
    return pfn != NIL ? pfn : alloc_pages_slowpath(m, order, migratetype, gfp);
}

void free_pages(machine &m, u32 pfn, u32 order) {
    const u32 freed = 1U << order;
    m.pages.clear(pfn, order == PMD_ORDER && !m.pages[pfn].tails ? 1 : freed);
    std::fill_n(m.contents + pfn, freed, u8{0});
    m.count(VM_pgfree, freed);
    free_one_page(m, pfn, order);
}

void setup_per_zone_wmarks(machine &m) {
    const u64 pages = m.h->arrays[ARRAY_pages].capacity;
    // init_per_zone_wmark_min: 4 * sqrt(lowmem in KiB), 128 KiB to 256 MiB.
    u64 min = std::clamp<u64>(int_sqrt(pages * (PAGE_SIZE / 1024) * 16), 128, 262144) / (PAGE_SIZE / 1024);
    u32 mode = m.h->thp_mode[PMD_ORDER];
    if (mode == THP_INHERIT) mode = m.h->thp_enabled;
    if (mode != THP_NEVER) { // set_recommended_min_free_kbytes: room for two blocks of each type, and for
                             // falling back from each to each
        const u64 recommended = PAGEBLOCK_NR_PAGES * (2 + u64{MIGRATE_PCPTYPES} * MIGRATE_PCPTYPES);
        min = std::max(min, std::min(recommended, pages / 20));
    }
    const u32 min_free_kbytes = m.h->config.min_free_kbytes;
    if (min_free_kbytes != NIL) min = min_free_kbytes / (PAGE_SIZE / 1024);
    const u64 step = std::max(min / 4, pages / 1000); // watermark_scale_factor = 10
    u32 *const mark = m.h->zone.watermark;
    mark[WMARK_MIN] = static_cast<u32>(min);
    mark[WMARK_LOW] = static_cast<u32>(min + step);
    mark[WMARK_HIGH] = static_cast<u32>(min + 2 * step);
}

void memory_tick(machine &m) {
    const u64 ps = m.h->clock - m.h->memory_clock;
    m.h->memory_clock = m.h->clock;
    if (ps == 0) return;
    constexpr vm_event now[] = {VM_nr_resident, VM_nr_untouched, VM_nr_unmapped};
    constexpr vm_event integral[] = {VM_resident_page_us, VM_untouched_page_us, VM_unmapped_page_us};
    for (u32 i = 0; i < 3; ++i) {
        u64 &remainder = m.h->memory_rest[i];
        // Whole microseconds apart from the rest, so that no product overflows.
        if (ps >= 1000000) m.count_weighted(integral[i], m.h->vm[now[i]], ps / 1000000);
        remainder += m.h->vm[now[i]] * (ps % 1000000);
        m.count(integral[i], remainder / 1000000);
        remainder %= 1000000;
    }
}

void mod_memory(machine &m, vm_event which, i64 pages) {
    if (pages == 0) return;
    memory_tick(m);
    m.h->vm[which] += static_cast<u64>(pages);
    if (which == VM_nr_resident) {
        m.h->vm[VM_peak_resident] = std::max(m.h->vm[VM_peak_resident], m.h->vm[VM_nr_resident]);
    }
}

u32 folio_alloc(machine &m, u32 order, u32 gfp) {
    const u32 head = uses_huge_page_pool(m, order) ? alloc_cont_pte_hugepage(m, gfp)
                                                   : alloc_pages(m, order, MIGRATE_MOVABLE, gfp);
    if (head == NIL) return NIL;
    const u32 nr = 1U << order;
    for (u32 i = 1; i < nr && order < PMD_ORDER; ++i) m.pages[head + i].tail = static_cast<u16>(i);
    page &folio = m.pages[head];
    folio.flags = PG_head | PG_swapbacked | (folio.flags & (PG_pool | PG_lent));
    folio.order = static_cast<u8>(order);
    folio.refcount = 1;
    folio.deferred_next = folio.deferred_prev = NIL;
    mod_memory(m, VM_nr_resident, nr);
    mod_memory(m, VM_nr_untouched, nr);
    return head;
}

u32 folio_alloc_charged(machine &m, u32 order, u32 gfp, u32 memcg, bool *charge_failed) {
    const u32 head = folio_alloc(m, order, gfp);
    *charge_failed = head != NIL && !mem_cgroup_charge(m, head, memcg, gfp);
    if (!*charge_failed) return head;
    folio_put(m, head, 1);
    return NIL;
}

u32 folio_prealloc(machine &m, u32 memcg) {
    bool charge_failed = false;
    return folio_alloc_charged(m, 0, GFP_KERNEL, memcg, &charge_failed);
}

void folio_get(machine &m, u32 head, i32 refs) { m.pages[head].refcount += refs; }

void folio_put(machine &m, u32 head, i32 refs) {
    page &folio = m.pages[head];
    folio.refcount -= refs;
    if (folio.refcount > 0) return;
    const u32 order = folio.order, nr = 1U << order;
    lru_del(m, head);
    mem_cgroup_uncharge(m, head);
    folio_unqueue_deferred_split(m, head);
    if ((folio.flags & PG_anon) && order > 0) m.count(MTHP_nr_anon, order, -1);
    i64 untouched = 0, unmapped = 0;
    for (u32 i = 0; i < nr; ++i) untouched += !(m.contents[head + i] & CONTENT_TOUCHED);
    if (order > 0 && (folio.flags & PG_anon)) unmapped = nr; // counted page by page as the last mappings went
    mod_memory(m, VM_nr_untouched, -untouched);
    mod_memory(m, VM_nr_unmapped, -unmapped);
    mod_memory(m, VM_nr_resident, -i64{nr});
    if (folio.flags & (PG_pool | PG_lent)) return free_cont_pte_hugepage(m, head);
    free_pages(m, head, order);
}

} // namespace thp
