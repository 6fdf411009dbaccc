#include "workingset.hpp"
#include "lru.hpp"
#include "memcontrol.hpp"
#include "page_alloc.hpp"

namespace thp {

namespace {

constexpr u32 PRESENT = 1, WORKINGSET = 2, MEMCG = 4,
              AGE_SHIFT = 3; // a slot's `evicted`: the age in the bits above
constexpr u32 AGE_MASK = ~0U >> AGE_SHIFT;

} // namespace

void workingset_eviction(machine &m, u32 head, u32 slot, bool memcg) {
    const u32 nr = folio_nr_pages(m, head);
    u64 &own = m.memcgs[folio_memcg(m, head)].nonresident_age;
    const u32 flags = PRESENT | (m.pages[head].flags & PG_workingset ? WORKINGSET : 0) | (memcg ? MEMCG : 0);
    const auto age = static_cast<u32>(memcg ? own : m.h->nonresident_age);
    for (u32 i = 0; i < nr; ++i) m.swap[slot + i].evicted = age << AGE_SHIFT | flags;
    m.h->nonresident_age += nr;
    if (memcg) own += nr;
}

void workingset_refault(machine &m, u32 head, u32 evicted) {
    if (!(evicted & PRESENT)) return;
    const u32 nr = folio_nr_pages(m, head), group = folio_memcg(m, head);
    m.count(VM_workingset_refault_anon, nr);
    const bool memcg = evicted & MEMCG;
    const u64 age = memcg ? m.memcgs[group].nonresident_age : m.h->nonresident_age;
    const u32 distance = (static_cast<u32>(age) - (evicted >> AGE_SHIFT)) & AGE_MASK;
    mem_cgroup_flush_stats_ratelimited(m);
    const auto pages = [&](lru_index list) { return lruvec_page_state(m, memcg ? group : NIL, list); };
    u64 size = pages(LRU_ACTIVE_FILE) + pages(LRU_INACTIVE_FILE);
    if (m.h->swap_used + 1 < m.h->swap_slots) size += pages(LRU_ACTIVE_ANON); // slot 0 is the header
    if (distance > size + (memcg ? 0 : nr_free_pages(m))) return;
    m.pages[head].flags |= PG_active;
    workingset_age_nonresident(m, group, nr);
    m.count(VM_workingset_activate_anon, nr);
    m.memcgs[group].workingset_activate += nr;
    if (!(evicted & WORKINGSET)) return;
    m.pages[head].flags |= PG_workingset;
    lru_note_cost(m, group, false, nr, 0);
}

void workingset_age_nonresident(machine &m, u32 memcg, u64 nr) {
    m.h->nonresident_age += nr;
    m.memcgs[memcg].nonresident_age += nr;
}

} // namespace thp
