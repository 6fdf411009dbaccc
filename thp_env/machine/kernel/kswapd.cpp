#include "kswapd.hpp"
#include "compaction.hpp"
#include "memcontrol.hpp"
#include "page_alloc.hpp"
#include "psi.hpp"
#include "vmscan.hpp"
#include <algorithm>

namespace thp {

namespace {

constexpr u32 MAX_RECLAIM_RETRIES = 16;

// balance_pgdat: up to the high watermark, unless nothing can be reclaimed.
void balance(machine &m) {
    zone_struct &z = m.h->zone;
    m.count(VM_pageoutrun);
    while (z.nr_free <= z.watermark[WMARK_HIGH] && z.kswapd_failures < MAX_RECLAIM_RETRIES) {
        const u64 reclaimed = try_to_free_pages(m, z.watermark[WMARK_HIGH] + 1 - z.nr_free, true);
        z.kswapd_failures = reclaimed ? 0 : z.kswapd_failures + 1;
    }
    reset_isolation_suitable(m);
}

} // namespace

u64 zone_reclaimable_pages(const machine &m) {
    u64 nr = 0;
    const bool swap = m.h->swap_used + 1 < m.h->swap_slots; // can_reclaim_anon_pages
    for (u32 g = 0; g < nr_memcgs(m); ++g) {
        const lru_list *lru = m.memcgs[g].lru;
        nr += lru[LRU_INACTIVE_FILE].nr_pages + lru[LRU_ACTIVE_FILE].nr_pages;
        for (const lru_index list : {LRU_INACTIVE_ANON, LRU_ACTIVE_ANON, LRU_INACTIVE_CONT, LRU_ACTIVE_CONT})
            nr += swap ? lru[list].nr_pages : 0;
    }
    return nr;
}

void wakeup_kswapd(machine &m, u32 order) {
    zone_struct &z = m.h->zone;
    const bool low = !zone_watermark_ok(m, order, z.watermark[WMARK_LOW]);
    if (low && z.kswapd_failures < MAX_RECLAIM_RETRIES) z.kswapd_wakeup = 1;
    if (order) z.kcompactd_order = std::max(z.kcompactd_order, order);
}

void run_woken_daemons(machine &m) {
    zone_struct &z = m.h->zone;
    const daemon_runs daemon(m);
    if (z.kswapd_wakeup) {
        const psi_memstall stall(m);
        z.kswapd_wakeup = 0;
        balance(m);
    }
    if (z.kcompactd_order) {
        const psi_memstall stall(m);
        const u32 order = z.kcompactd_order;
        z.kcompactd_order = 0;
        kcompactd_do_work(m, order);
    }
}

} // namespace thp
