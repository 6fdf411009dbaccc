#include "memcontrol.hpp"
#include "gup.hpp"
#include "lru.hpp"
#include "mmap.hpp"
#include "page_alloc.hpp"
#include "psi.hpp"
#include "vmscan.hpp"
#include <algorithm>
#include <cerrno>

namespace thp {

namespace {

constexpr u64 MEMCG_CHARGE_BATCH = 64; // include/linux/memcontrol.h: pages a CPU charges in advance
constexpr u32 MAX_RECLAIM_RETRIES = 16;

bool page_counter_try_charge(mem_cgroup &g, u64 nr) {
    if (g.usage + nr > g.max) return false;
    g.usage += nr;
    g.watermark = std::max(g.watermark, g.usage);
    return true;
}

bool consume_stock(mem_cgroup &g, u64 nr) {
    if (g.stock < nr) return false;
    g.stock -= nr;
    return true;
}

void drain_stock(mem_cgroup &g) {
    g.usage -= g.stock;
    g.stock = 0;
}

void refill_stock(mem_cgroup &g, u64 nr) {
    g.stock += nr;
    if (g.stock > MEMCG_CHARGE_BATCH) drain_stock(g);
}

bool try_charge(machine &m, u32 memcg, u64 nr, u32 gfp) {
    mem_cgroup &g = m.memcgs[memcg];
    bool drained = false;
    for (u32 retries = 0; retries <= MAX_RECLAIM_RETRIES;) {
        if (consume_stock(g, nr)) return true;
        const u64 batch = std::max(nr, MEMCG_CHARGE_BATCH);
        if (page_counter_try_charge(g, batch)) {
            refill_stock(g, batch - nr);
            return true;
        }
        if (page_counter_try_charge(g, nr)) return true;
        if (!(gfp & GFP_DIRECT_RECLAIM)) return false;
        ++g.events[MEMCG_MAX];
        u64 reclaimed = 0;
        {
            const psi_memstall stall(m);
            reclaimed = try_to_free_mem_cgroup_pages(m, memcg, nr);
        }
        if (g.usage + nr <= g.max) continue;
        if (!drained) {
            drain_stock(g);
            drained = true;
            continue;
        }
        if (gfp & GFP_NORETRY) return false;
        if (reclaimed && nr <= (1U << PAGE_ALLOC_COSTLY_ORDER)) continue;
        ++retries;
    }
    if (nr == 1) { // mem_cgroup_oom; who runs the process kills one of the group
        ++g.events[MEMCG_OOM];
        m.h->memcg_oom = memcg + 1;
    }
    return false;
}

} // namespace

bool mem_cgroup_create(machine &m, u32 memcg) {
    arena_array &t = m.h->arrays[ARRAY_memcgs];
    if (memcg >= t.capacity) return false;
    if (t.used == 1 && memcg) m.h->root_cost = m.memcgs[0].cost;
    for (; t.used <= memcg; ++t.used) {
        mem_cgroup &g = m.memcgs[t.used] = mem_cgroup{};
        g.swappiness = 60;
        g.max = ~0ULL;
        g.deferred_head = g.deferred_tail = NIL;
        for (lru_list &list : g.lru) list = {NIL, NIL, 0};
    }
    m.memcgs[memcg].made = 1;
    psi_init(m, m.memcgs[memcg].psi);
    return true;
}

int mem_cgroup_attach(machine &m, u32 mm, u32 memcg) {
    if (!mem_cgroup_made(m, memcg) && !mem_cgroup_create(m, memcg)) return -ENOSPC;
    m.mms[mm].memcg = memcg;
    return 0;
}

bool mem_cgroup_charge(machine &m, u32 head, u32 memcg, u32 gfp) {
    if (!try_charge(m, memcg, folio_nr_pages(m, head), gfp)) return false;
    m.pages[head].flags |= PG_charged | memcg << MEMCG_SHIFT;
    return true;
}

void mem_cgroup_uncharge(machine &m, u32 head) {
    if (m.pages[head].flags & PG_charged) m.memcgs[folio_memcg(m, head)].usage -= folio_nr_pages(m, head);
}

void mem_cgroup_charge_swap(machine &m, u32 head, u32 slot) {
    const u32 memcg = folio_memcg(m, head), nr = folio_nr_pages(m, head);
    for (u32 i = 0; i < nr; ++i) {
        if (m.swap[slot + i].memcg) continue; // it has kept its slot in the swap cache
        m.swap[slot + i].memcg = static_cast<u8>(memcg + 1);
        ++m.memcgs[memcg].swap;
    }
}

void mem_cgroup_uncharge_swap(machine &m, u32 slot) {
    if (m.swap[slot].memcg) --m.memcgs[m.swap[slot].memcg - 1].swap;
    m.swap[slot].memcg = 0;
}

int mem_cgroup_resize_max(machine &m, u32 memcg, u64 pages) {
    if (!mem_cgroup_made(m, memcg)) return -ENOENT;
    mem_cgroup &g = m.memcgs[memcg];
    if (g.usage > pages) drain_stock(g);
    while (g.usage > pages) {
        if (try_to_free_mem_cgroup_pages(m, memcg, 1) == 0) return -EBUSY;
    }
    g.max = pages;
    return 0;
}

void mem_cgroup_force_empty(machine &m, u32 memcg) {
    mem_cgroup &g = m.memcgs[memcg];
    lru_add_drain(m);
    drain_stock(g);
    for (u32 retries = 0; retries < MAX_RECLAIM_RETRIES && g.usage;) {
        if (try_to_free_mem_cgroup_pages(m, memcg, 1) == 0) ++retries;
    }
}

u64 lruvec_page_state(const machine &m, u32 memcg, lru_index list) {
    if (memcg != NIL) return m.memcgs[memcg].stats.nr_pages[list];
    u64 pages = 0;
    for (u32 g = 0; g < nr_memcgs(m); ++g) pages += m.memcgs[g].stats.nr_pages[list];
    return pages;
}

u64 workingset_activations(const machine &m, u32 memcg) {
    if (memcg != NIL) return m.memcgs[memcg].stats.workingset_activate;
    u64 n = 0;
    for (u32 g = 0; g < nr_memcgs(m); ++g) n += m.memcgs[g].stats.workingset_activate;
    return n;
}

void mem_cgroup_flush_stats(machine &m) {
    for (u32 i = 0; i < nr_memcgs(m); ++i) {
        mem_cgroup &g = m.memcgs[i];
        for (u32 list = 0; list < NR_LRU_LISTS; ++list) g.stats.nr_pages[list] = g.lru[list].nr_pages;
        g.stats.workingset_activate = g.workingset_activate;
    }
    m.h->lru_stats_flushed_at = m.h->clock;
}

void mem_cgroup_flush_stats_ratelimited(machine &m) {
    if (m.h->clock - m.h->lru_stats_flushed_at >= m.h->config.flush_time) mem_cgroup_flush_stats(m);
}

u32 mem_cgroup_out_of_memory(machine &m, u32 memcg) {
    u32 victim = NIL;
    u64 most = 0;
    for (u32 p = 0; p < m.h->arrays[ARRAY_processes].used; ++p) {
        const u32 mm = m.processes[p];
        if (mm == NIL || m.mms[mm].memcg != memcg) continue;
        const u64 points = m.mms[mm].rss + m.mms[mm].swapents; // oom_badness
        if (points < most) continue;
        victim = p;
        most = points;
    }
    if (victim == NIL) return NIL;
    ++m.memcgs[memcg].events[MEMCG_OOM_KILL];
    m.count(VM_oom_kill);
    const u32 mm = m.processes[victim];
    m.processes[victim] = NIL;
    m.oom_killed[victim] = 1;
    unpin(m, victim);
    mm_exit(m, mm);
    return victim;
}

} // namespace thp
