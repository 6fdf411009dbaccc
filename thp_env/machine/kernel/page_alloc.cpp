#include "page_alloc.hpp"
#include "cont_pte_hugepage.hpp"
#include "huge_memory.hpp"
#include "lru.hpp"
#include "memcontrol.hpp"
#include "vmscan.hpp"
#include <algorithm>

namespace thp {

namespace {

constexpr u64 BLOCK = 1ULL << MAX_PAGE_ORDER;

void add_to_free_list(machine &m, u32 pfn, u32 order) {
    page &p = m.pages[pfn];
    free_area &area = m.h->area[order];
    p.flags = PG_buddy;
    p.order = static_cast<u8>(order);
    p.prev = NIL;
    p.next = area.head;
    if (area.head != NIL) m.pages[area.head].prev = pfn;
    area.head = pfn;
    ++area.nr_free;
}

void del_from_free_list(machine &m, u32 pfn, u32 order) {
    page &p = m.pages[pfn];
    free_area &area = m.h->area[order];
    if (p.prev != NIL) {
        m.pages[p.prev].next = p.next;
    } else {
        area.head = p.next;
    }
    if (p.next != NIL) m.pages[p.next].prev = p.prev;
    p = page{};
    --area.nr_free;
}

// Memory beyond the highest frame ever used is free without a record, so that a large idle machine is small.
bool init_next_block(machine &m) {
    table_header &t = m.h->tables[TABLE_pages];
    const u64 rest = t.capacity - t.used;
    if (rest == 0) return false;
    u32 pfn = t.used;
    t.used += static_cast<u32>(std::min(rest, BLOCK));
    m.h->tables[TABLE_contents].used = t.used;
    if (rest >= BLOCK) {
        add_to_free_list(m, pfn, MAX_PAGE_ORDER);
        return true;
    }
    for (u32 order = MAX_PAGE_ORDER; pfn < t.used; --order) {
        if (t.used - pfn < (1U << order)) continue;
        add_to_free_list(m, pfn, order);
        pfn += 1U << order;
    }
    return true;
}

constexpr u32 MAX_RECLAIM_RETRIES = 16; // mm/page_alloc.c: rounds of reclaim without any progress

u32 get_page_from_freelist(machine &m, u32 order) {
    for (;;) {
        u32 current = order;
        while (current <= MAX_PAGE_ORDER && m.h->area[current].head == NIL) ++current;
        if (current > MAX_PAGE_ORDER) {
            if (!init_next_block(m)) return NIL;
            continue;
        }
        const u32 pfn = m.h->area[current].head;
        del_from_free_list(m, pfn, current);
        while (current > order) { // expand(): the upper halves go back
            --current;
            add_to_free_list(m, pfn + (1U << current), current);
        }
        m.count(VM_pgalloc, 1ULL << order);
        return pfn;
    }
}

} // namespace

u32 alloc_pages(machine &m, u32 order, u32 gfp) {
    u32 pfn = get_page_from_freelist(m, order);
    const bool may_reclaim = (gfp & GFP_DIRECT_RECLAIM) && order <= PAGE_ALLOC_COSTLY_ORDER;
    for (u32 retries = 0; pfn == NIL && may_reclaim && retries < MAX_RECLAIM_RETRIES; ++retries) {
        try_to_free_pages(m, 1ULL << order);
        pfn = get_page_from_freelist(m, order);
        if (gfp & GFP_NORETRY) break;
    }
    return pfn;
}

void free_pages(machine &m, u32 pfn, u32 order) {
    const u32 freed = 1U << order;
    std::fill_n(m.pages + pfn, freed, page{});
    std::fill_n(m.contents + pfn, freed, u8{0});
    m.count(VM_pgfree, freed);
    while (order < MAX_PAGE_ORDER) {
        const u32 buddy = pfn ^ (1U << order);
        if (buddy + (1U << order) > m.h->tables[TABLE_pages].used) break;
        const page &b = m.pages[buddy];
        if (!(b.flags & PG_buddy) || b.order != order) break;
        del_from_free_list(m, buddy, order);
        pfn &= ~(1U << order);
        ++order;
    }
    add_to_free_list(m, pfn, order);
}

u64 nr_free_pages(const machine &m) {
    const table_header &t = m.h->tables[TABLE_pages];
    u64 n = t.capacity - t.used;
    for (u32 order = 0; order <= MAX_PAGE_ORDER; ++order) n += u64{m.h->area[order].nr_free} << order;
    return n + m.h->vm[VM_chp_pool_count] * CONT_PTES;
}

void memory_tick(machine &m) {
    const u64 ps = m.h->clock - m.h->memory_clock;
    m.h->memory_clock = m.h->clock;
    if (ps == 0) return;
    constexpr vm_event now[] = {VM_nr_resident, VM_nr_untouched, VM_nr_unmapped};
    constexpr vm_event integral[] = {VM_resident_page_us, VM_untouched_page_us, VM_unmapped_page_us};
    for (u32 i = 0; i < 3; ++i) {
        u64 &rest = m.h->memory_rest[i];
        // Whole microseconds apart from the rest, so that no product overflows.
        m.count(integral[i], m.h->vm[now[i]] * (ps / 1000000));
        rest += m.h->vm[now[i]] * (ps % 1000000);
        m.count(integral[i], rest / 1000000);
        rest %= 1000000;
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
    const u32 head =
        uses_huge_page_pool(m, order) ? alloc_cont_pte_hugepage(m, gfp) : alloc_pages(m, order, gfp);
    if (head == NIL) return NIL;
    const u32 nr = 1U << order;
    for (u32 i = 1; i < nr; ++i) m.pages[head + i].tail = static_cast<u16>(i);
    page &folio = m.pages[head];
    folio.flags = PG_head | PG_swapbacked | (folio.flags & (PG_pool | PG_lent));
    folio.order = static_cast<u8>(order);
    folio.refcount = 1;
    folio.deferred_next = folio.deferred_prev = NIL;
    mod_memory(m, VM_nr_resident, nr);
    mod_memory(m, VM_nr_untouched, nr);
    return head;
}

u32 folio_alloc_charged(machine &m, u32 order, u32 gfp, bool *charge_failed) {
    const u32 head = folio_alloc(m, order, gfp);
    *charge_failed = head != NIL && !mem_cgroup_charge(m, head, gfp);
    if (!*charge_failed) return head;
    folio_put(m, head, 1);
    return NIL;
}

u32 folio_prealloc(machine &m) {
    bool charge_failed = false;
    return folio_alloc_charged(m, 0, GFP_KERNEL, &charge_failed);
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
