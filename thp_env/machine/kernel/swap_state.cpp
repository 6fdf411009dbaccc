// mm/swap_state.c: the swap cache, and read-ahead into it.
#include "lru.hpp"
#include "memcontrol.hpp"
#include "page_alloc.hpp"
#include "psi.hpp"
#include "swap.hpp"
#include "workingset.hpp"
#include <algorithm>
#include <bit>
#include <cerrno>

namespace thp {

namespace {

constexpr u32 MAX_WINDOW = 8; // 1 << page_cluster

// VMA's read-ahead state: page number of the last fault << 12 | window << 6 | hits.
struct readahead {
    u64 page;
    u32 window, hits;
};

readahead unpack(u64 info) {
    if (info == 0) return {0, 0, 4};
    return {info >> 12, static_cast<u32>(info >> 6) & 63, static_cast<u32>(info) & 63};
}

u64 pack(u64 page, u32 window, u32 hits) { return page << 12 | u64{window} << 6 | hits; }

// __swapin_nr_pages
u32 window_size(const readahead &last, u64 page) {
    u32 pages = last.hits + 2;
    if (pages == 2) {
        if (page != last.page + 1 && page + 1 != last.page) pages = 1;
    } else {
        pages = std::max(4U, std::bit_ceil(pages));
    }
    return std::max(std::min(pages, MAX_WINDOW), last.window / 2);
}

} // namespace

// swap_vma_readahead: the page itself and its neighbours in the window, within VMA and page table.
u32 swapin_readahead(machine &m, u32 vma, u64 address, u64 *pte) {
    vm_area_struct &v = m.vmas[vma];
    const u64 page = address >> PAGE_SHIFT;
    const readahead last = unpack(v.swap_readahead);
    const u32 window = window_size(last, page);
    v.swap_readahead = pack(page, window, 0);
    u32 before = (window - 1) / 2;
    if (page == last.page + 1) before = 0;
    if (page + 1 == last.page) before = window - 1;
    const u64 table = align_down(page, PTRS_PER_TABLE);
    const u64 first = std::max({page - std::min<u64>(before, page), v.vm_start >> PAGE_SHIFT, table});
    const u64 end = std::min({page + window - before, v.vm_end >> PAGE_SHIFT, table + PTRS_PER_TABLE});
    for (u64 i = first; i < end; ++i) {
        const u64 entry = *(pte + static_cast<i64>(i) - static_cast<i64>(page));
        if (!is_swap_pte(entry) || swap_cache_get(m, pte_swp_offset(entry)) != NIL) continue;
        const u32 pfn = read_swap_cache(m, pte_swp_offset(entry));
        if (pfn == NIL) return NIL;
        if (i != page) m.pages[pfn].flags |= PG_readahead;
    }
    const u32 pfn = swap_cache_get(m, pte_swp_offset(*pte)); // reclaim may have been faster
    return pfn != NIL ? pfn : read_swap_cache(m, pte_swp_offset(*pte));
}

void swap_update_readahead(machine &m, u32 vma, u64 address, u32 head) {
    u64 &info = m.vmas[vma].swap_readahead;
    const readahead last = unpack(info);
    const bool hit = m.pages[head].flags & PG_readahead;
    info = pack(address >> PAGE_SHIFT, last.window, std::min(last.hits + hit, 63U));
    m.pages[head].flags &= ~u32{PG_readahead};
}

void add_to_swap_cache(machine &m, u32 pfn, u32 slot) {
    m.swap[slot].cached = pfn + 1;
    m.pages[pfn].swap = slot;
    m.pages[pfn].flags |= PG_swapcache;
    folio_get(m, pfn, 1);
}

u32 read_swap_cache(machine &m, u32 slot) {
    const u32 evicted = m.swap[slot].evicted, pfn = folio_prealloc(m, swap_memcg(m, slot, 0));
    if (pfn == NIL) return NIL;
    m.pages[pfn].flags |= PG_anon;
    m.pages[pfn].anon_vma = NIL; // until it is mapped
    add_to_swap_cache(m, pfn, slot);
    m.pages[pfn].refcount = 1; // the cache's
    const u64 start = m.h->clock;
    swap_read_page(m, slot, pfn);
    const u64 read = m.h->clock;
    workingset_refault(m, pfn, evicted);
    if (m.pages[pfn].flags & PG_workingset) psi_stalled(m, start, read); // swap_read_folio
    lru_add(m, pfn);
    return pfn;
}

void delete_from_swap_cache(machine &m, u32 head) {
    const u32 slot = m.pages[head].swap;
    m.pages[head].flags &= ~u32{PG_swapcache};
    m.pages[head].swap = NIL;
    m.swap[slot].cached = 0;
    if (m.swap[slot].count == 0) swap_put(m, slot);
    folio_put(m, head, 1);
}

bool folio_free_swap(machine &m, u32 head) {
    if (!(m.pages[head].flags & PG_swapcache) || m.swap[m.pages[head].swap].count > 0) return false;
    m.pages[head].flags |= PG_dirty;
    delete_from_swap_cache(m, head);
    return true;
}

void free_swap_cache(machine &m, u32 head) {
    if ((m.pages[head].flags & PG_swapcache) && m.pages[head].mapcount == 0) folio_free_swap(m, head);
}

int willneed(machine &m, u32 vma, u64 start, u64 end) {
    const bool all = walk_pmd_range(m, m.vmas[vma].vm_mm, start, end, [&](u64 at, u64 next, u64 *pmd) {
        if (!pmd_is_table(*pmd)) return true;
        for (const u64 *pte = pte_offset(m, *pmd, at); at < next; at += PAGE_SIZE, ++pte) {
            if (!is_swap_pte(*pte) || swap_cache_get(m, pte_swp_offset(*pte)) != NIL) continue;
            if (read_swap_cache(m, pte_swp_offset(*pte)) == NIL) return false;
        }
        return true;
    });
    return all ? 0 : -ENOMEM;
}

} // namespace thp
