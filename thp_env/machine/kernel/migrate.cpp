#include "migrate.hpp"
#include "../hardware/tlb.hpp"
#include "huge_memory.hpp"
#include "lru.hpp"
#include "page_alloc.hpp"
#include "rmap.hpp"
#include "zsmalloc.hpp"
#include <algorithm>

namespace thp {

namespace {

// Entries go to the new frame where they stand; nobody else runs meanwhile, so no migration entries.
void move_ptes(machine &m, u32 from, u32 to, u32 i) {
    rmap_walk_page(m, from, i, [&](u32 mm, u32, u64 address) {
        u64 *pte = pte_lookup(m, mm, address);
        if (!pte || !pte_present(*pte) || (*pte & PTE_SPECIAL) || pte_pfn(*pte) != from + i) return;
        *pte += mk_pte(to, 0) - mk_pte(from, 0);
        flush_tlb_range(m, mm, address, address + PAGE_SIZE);
    });
}

} // namespace

bool folio_isolatable(const machine &m, u32 head) {
    const page &folio = m.pages[head];
    if (folio.flags & (PG_filecache | PG_zsmalloc)) return true;
    if (!(folio.flags & PG_head) || !(folio.flags & PG_lru) || !(folio.flags & PG_anon)) return false;
    const i32 mapped = folio.order ? folio.large_mapcount : folio.mapcount;
    const bool cached = folio.flags & PG_swapcache;
    return folio.pincount == 0 && folio.entire_mapcount == 0 && folio.refcount == mapped + cached;
}

void migrate_folio(machine &m, u32 from, u32 to) {
    const u32 order = m.pages[from].order, nr = 1U << order;
    const bool folio = m.pages[from].flags & PG_head;
    if (folio) {
        folio_unqueue_deferred_split(m, from);
        for (u32 i = 0; i < nr; ++i) move_ptes(m, from, to, i);
        lru_del(m, from);
    }
    for (u32 i = 0; i < nr; ++i) m.pages[to + i] = m.pages[from + i];
    std::copy_n(m.contents + from, nr, m.contents + to);
    if (folio) {
        if (m.pages[to].flags & PG_swapcache) m.swap[m.pages[to].swap].cached = to + 1;
        lru_add(m, to); // putback: at the head of its list
    }
    if (m.pages[to].flags & PG_zsmalloc) zs_page_migrate(m, to);
    m.pages.clear(from, nr);
    std::fill_n(m.contents + from, nr, u8{0});
    free_one_page(m, from, order);
    m.spend(TIME_compaction, m.cost().migrate_page * nr);
    m.count(VM_pgmigrate_success, nr);
}

} // namespace thp
