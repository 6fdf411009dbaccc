#include "cont_pte_hugepage.hpp"
#include "page_alloc.hpp"
#include "vmscan.hpp"
#include <algorithm>

namespace thp {

namespace {

constexpr u32 HIGH_WMARK = (90U << 20) / CONT_PTE_SIZE; // 90 MiB
constexpr u64 REFILL_INTERVAL = 100'000'000'000;        // khpage_poold tries every 100 ms
constexpr u64 STABLE_AFTER = 10'000'000'000'000;        // no new peak of lent blocks for 10 s
constexpr u32 RECLAIM_BATCH = 8;                        // folios kswapd takes at a time

u32 high_wmark(const machine &m) { return std::min(HIGH_WMARK, m.h->config.pool_blocks / 4); }
u32 low_wmark(const machine &m) { return high_wmark(m) * 7 / 10; }
u32 min_wmark(const machine &m) { return high_wmark(m) * 3 / 10; }

// What the buddy allocator may lend: 3 x 512 MiB of an 8 GiB phone, and 300 MiB once the system is stable.
u32 lent_limit(const machine &m) {
    const u64 blocks = m.h->config.nr_pages / CONT_PTES;
    const bool stable = m.h->clock - m.h->pool_peak_at > STABLE_AFTER;
    return static_cast<u32>(stable ? blocks * 300 / 8192 : blocks * 3 / 16);
}

void pool_add(machine &m, u32 head) {
    page &p = m.pages[head];
    p.flags = PG_pool;
    p.order = CONT_PTE_ORDER;
    p.prev = NIL;
    p.next = m.h->pool_head;
    m.h->pool_head = head;
    ++m.h->vm[VM_chp_pool_count];
}

u32 pool_remove(machine &m) {
    const u32 head = m.h->pool_head;
    m.h->pool_head = m.pages[head].next;
    m.pages[head] = page{};
    --m.h->vm[VM_chp_pool_count];
    return head;
}

} // namespace

void huge_page_pool_init(machine &m) {
    m.h->pool_head = NIL;
    if (!feature(m, FEATURE_pool_64k)) return;
    m.h->pool_lost = m.h->config.pool_blocks;
    m.h->pool_refilled_at = 0;
    while (m.h->pool_lost > 0) {
        const u32 head = alloc_pages(m, CONT_PTE_ORDER, MIGRATE_MOVABLE, GFP_NOWAIT);
        if (head == NIL) break;
        pool_add(m, head);
        --m.h->pool_lost;
    }
}

u32 alloc_cont_pte_hugepage(machine &m, u32 gfp) {
    if (m.h->vm[VM_chp_pool_count] > min_wmark(m)) {
        const u32 head = pool_remove(m);
        m.pages[head].flags = PG_pool;
        m.count(VM_chp_alloc_pool);
        return head;
    }
    if (m.h->pool_lent >= lent_limit(m)) {
        m.count(VM_chp_alloc_failed);
        return NIL;
    }
    const u32 head = alloc_pages(m, CONT_PTE_ORDER, MIGRATE_MOVABLE, gfp);
    m.count(head == NIL ? VM_chp_alloc_failed : VM_chp_alloc_buddy);
    if (head == NIL) return NIL;
    m.pages[head].flags = PG_lent;
    if (++m.h->pool_lent > m.h->pool_peak) {
        m.h->pool_peak = m.h->pool_lent;
        m.h->pool_peak_at = m.h->clock;
    }
    return head;
}

void free_cont_pte_hugepage(machine &m, u32 head) {
    const bool lent = m.pages[head].flags & PG_lent;
    m.h->pool_lent -= lent;
    if (lent && m.h->pool_lost == 0) return free_pages(m, head, CONT_PTE_ORDER);
    m.h->pool_lost -= lent; // a lent block makes up for a lost one
    m.pages.clear(head, CONT_PTES);
    std::fill_n(m.contents + head, CONT_PTES, u8{0});
    pool_add(m, head);
}

void huge_page_pool_split(machine &m, u32 head) {
    const u32 flags = m.pages[head].flags;
    m.h->pool_lent -= (flags & PG_lent) != 0;
    m.h->pool_lost += (flags & PG_pool) != 0;
}

void huge_page_pool_balance(machine &m) {
    if (m.h->vm[VM_chp_pool_count] > low_wmark(m) || m.h->clock - m.h->pool_refilled_at < REFILL_INTERVAL)
        return;
    m.h->pool_refilled_at = m.h->clock;
    while (m.h->pool_lost > 0) {
        const u32 head = alloc_pages(m, CONT_PTE_ORDER, MIGRATE_MOVABLE, GFP_NOWAIT);
        if (head == NIL) break;
        pool_add(m, head);
        --m.h->pool_lost;
        m.count(VM_chp_refill);
    }
    if (feature(m, FEATURE_reclaim_whole) && m.h->vm[VM_chp_pool_count] <= low_wmark(m)) {
        shrink_cont_pte_folios(m, RECLAIM_BATCH);
    }
}

} // namespace thp
