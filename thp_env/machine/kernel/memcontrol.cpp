#include "memcontrol.hpp"
#include "lru.hpp"
#include "page_alloc.hpp"
#include "vmscan.hpp"
#include <algorithm>
#include <cerrno>

namespace thp {

namespace {

constexpr u64 MEMCG_CHARGE_BATCH = 64; // include/linux/memcontrol.h: pages a CPU charges in advance
constexpr u32 MAX_RECLAIM_RETRIES = 16;

bool page_counter_try_charge(machine &m, u64 nr) {
    if (m.h->memcg_usage + nr > m.h->memcg_max) return false;
    m.h->memcg_usage += nr;
    return true;
}

bool consume_stock(machine &m, u64 nr) {
    if (m.h->memcg_stock < nr) return false;
    m.h->memcg_stock -= nr;
    return true;
}

void drain_stock(machine &m) {
    m.h->memcg_usage -= m.h->memcg_stock;
    m.h->memcg_stock = 0;
}

void refill_stock(machine &m, u64 nr) {
    m.h->memcg_stock += nr;
    if (m.h->memcg_stock > MEMCG_CHARGE_BATCH) drain_stock(m);
}

bool try_charge(machine &m, u64 nr, u32 gfp) {
    bool drained = false;
    for (u32 retries = 0; retries <= MAX_RECLAIM_RETRIES;) {
        if (consume_stock(m, nr)) return true;
        const u64 batch = std::max(nr, MEMCG_CHARGE_BATCH);
        if (page_counter_try_charge(m, batch)) {
            refill_stock(m, batch - nr);
            return true;
        }
        if (page_counter_try_charge(m, nr)) return true;
        if (!(gfp & GFP_DIRECT_RECLAIM)) return false;
        const u64 reclaimed = try_to_free_mem_cgroup_pages(m, nr);
        if (m.h->memcg_usage + nr <= m.h->memcg_max) continue;
        if (!drained) {
            drain_stock(m);
            drained = true;
            continue;
        }
        if (gfp & GFP_NORETRY) return false;
        if (reclaimed && nr <= (1U << PAGE_ALLOC_COSTLY_ORDER)) continue;
        ++retries;
    }
    return false;
}

} // namespace

bool mem_cgroup_charge(machine &m, u32 head, u32 gfp) {
    if (!try_charge(m, folio_nr_pages(m, head), gfp)) return false;
    m.pages[head].flags |= PG_charged;
    return true;
}

void mem_cgroup_uncharge(machine &m, u32 head) {
    if (m.pages[head].flags & PG_charged) m.h->memcg_usage -= folio_nr_pages(m, head);
}

int mem_cgroup_resize_max(machine &m, u64 pages) {
    if (m.h->memcg_usage > pages) drain_stock(m);
    while (m.h->memcg_usage > pages) {
        if (try_to_free_mem_cgroup_pages(m, 1) == 0) return -EBUSY;
    }
    m.h->memcg_max = pages;
    return 0;
}

void mem_cgroup_force_empty(machine &m) {
    lru_add_drain(m);
    drain_stock(m);
    for (u32 retries = 0; retries < MAX_RECLAIM_RETRIES && m.h->memcg_usage;) {
        if (try_to_free_mem_cgroup_pages(m, 1) == 0) ++retries;
    }
}

void mem_cgroup_flush_stats(machine &m) {
    lruvec_state &state = m.h->lru_stats;
    for (u32 list = 0; list < NR_LRU_LISTS; ++list) state.nr_pages[list] = m.h->lru[list].nr_pages;
    state.workingset_activate = m.h->vm[VM_workingset_activate_anon];
    m.h->lru_stats_flushed_at = m.h->clock;
}

void mem_cgroup_flush_stats_ratelimited(machine &m) {
    if (m.h->clock - m.h->lru_stats_flushed_at >= m.h->config.flush_time) mem_cgroup_flush_stats(m);
}

} // namespace thp
