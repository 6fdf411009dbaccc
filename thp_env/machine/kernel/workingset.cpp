#include "workingset.hpp"
#include "lru.hpp"
#include "page_alloc.hpp"

namespace thp {

namespace {

constexpr u32 PRESENT = 1, WORKINGSET = 2, MEMCG = 4,
              AGE_SHIFT = 3; // a slot's `evicted`: the age in the bits above
constexpr u32 AGE_MASK = ~0U >> AGE_SHIFT;

} // namespace

void workingset_eviction(machine &m, u32 head, u32 slot, bool memcg) {
    const u32 nr = folio_nr_pages(m, head);
    const u32 flags = PRESENT | (m.pages[head].flags & PG_workingset ? WORKINGSET : 0) | (memcg ? MEMCG : 0);
    const auto age = static_cast<u32>(m.h->nonresident_age);
    for (u32 i = 0; i < nr; ++i) m.swap[slot + i].evicted = age << AGE_SHIFT | flags;
    m.h->nonresident_age += nr;
}

void workingset_refault(machine &m, u32 head, u32 evicted) {
    if (!(evicted & PRESENT)) return;
    const u32 nr = folio_nr_pages(m, head);
    m.count(VM_workingset_refault_anon, nr);
    const u32 distance = (static_cast<u32>(m.h->nonresident_age) - (evicted >> AGE_SHIFT)) & AGE_MASK;
    const u64 size = m.h->lru[LRU_INACTIVE_FILE].nr_pages + m.h->lru[LRU_ACTIVE_ANON].nr_pages +
                     (evicted & MEMCG ? 0 : nr_free_pages(m));
    if (distance > size) return;
    m.pages[head].flags |= PG_active | (evicted & WORKINGSET ? u32{PG_workingset} : 0);
    m.h->nonresident_age += nr;
    m.h->last_activation = m.h->clock;
    m.count(VM_workingset_activate_anon, nr);
}

} // namespace thp
