// mm/memory.c: do_swap_page; mm/swap_state.c: read-ahead into the swap cache.
#include "../hardware/tlb.hpp"
#include "huge_memory_bpf.hpp"
#include "memory.hpp"
#include "page_alloc.hpp"
#include "rmap.hpp"
#include "swap.hpp"
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

// Reads one slot into the swap cache; NIL when memory is exhausted.
u32 read_swap_cache(machine &m, u32 slot) {
    const u32 pfn = folio_alloc(m, 0);
    if (pfn == NIL) return NIL;
    m.pages[pfn].flags |= PG_anon;
    add_to_swap_cache(m, pfn, slot);
    m.pages[pfn].refcount = 1; // the cache's
    swap_read_page(m, slot, pfn);
    return pfn;
}

// swap_vma_readahead: the page itself and its neighbours in the window, within VMA and page table.
u32 swapin_readahead(machine &m, u32 vma, u64 address, u64 *pte) {
    vm_area_struct &v = m.vmas[vma];
    const u64 page = address >> PAGE_SHIFT;
    const readahead last = unpack(v.swap_readahead);
    const u32 window = window_size(last, page);
    v.swap_readahead = pack(page, window, 0);
    u32 left = (window - 1) / 2;
    if (page == last.page + 1) left = 0;
    if (page + 1 == last.page) left = window - 1;
    const u64 table = align_down(page, PTRS_PER_TABLE);
    const u64 first = std::max({page - std::min<u64>(left, page), v.vm_start >> PAGE_SHIFT, table});
    const u64 end = std::min({page + window - left, v.vm_end >> PAGE_SHIFT, table + PTRS_PER_TABLE});
    for (u64 i = first; i < end; ++i) {
        const u64 entry = *(pte + static_cast<i64>(i) - static_cast<i64>(page));
        if (!is_swap_pte(entry) || swap_cache_get(m, pte_swp_offset(entry)) != NIL) continue;
        const u32 pfn = read_swap_cache(m, pte_swp_offset(entry));
        if (pfn == NIL) return NIL;
        if (i != page) m.pages[pfn].flags |= PG_readahead;
    }
    return swap_cache_get(m, pte_swp_offset(*pte));
}

// can_swapin_thp: consecutive slots, none in the cache, all zero or none.
bool can_swapin_thp(const machine &m, const u64 *pte, u32 nr) {
    if (!is_swap_pte(*pte) || swap_pte_batch(pte, nr) != nr) return false;
    const u32 slot = pte_swp_offset(*pte);
    for (u32 i = 0; i < nr; ++i) {
        if ((pte[i] ^ *pte) & PTE_SWP_EXCLUSIVE) return false;
        if (m.swap[slot + i].cached || m.swap[slot + i].zeromap != m.swap[slot].zeromap) return false;
    }
    return true;
}

// R40-R42: the largest allowed order whose block is swapped to slots aligned like itself.
u32 alloc_swap_folio(machine &m, const vm_area_struct &v, u64 address, const u64 *pte) {
    u32 orders = swapin_orders(m, v, address, pte, thp_get_orders(m, v, address, TVA_SWAP_PAGEFAULT));
    while (orders) {
        const u32 order = static_cast<u32>(std::bit_width(orders)) - 1;
        orders &= ~(1U << order);
        const u32 head = folio_alloc(m, order);
        if (head != NIL) return head;
        m.count(MTHP_swpin_fallback, order);
    }
    return folio_alloc(m, 0);
}

} // namespace

u32 swapin_orders(const machine &m, const vm_area_struct &vma, u64 address, const u64 *pte, u32 orders) {
    const u32 slot = pte_swp_offset(*pte);
    if (swap_cache_get(m, slot) != NIL || swap_count(m, slot) != 1) return 0; // R43
    orders = thp_vma_suitable_orders(vma, address, orders & ~(1U << PMD_ORDER));
    for (; orders; orders &= ~std::bit_floor(orders)) { // where a larger block fits a smaller one does too
        const u32 nr = std::bit_floor(orders);
        if ((address >> PAGE_SHIFT) % nr == slot % nr && can_swapin_thp(m, pte - pte_index(address) % nr, nr))
            break;
    }
    return orders;
}

vm_fault do_swap_page(machine &m, u32 vma, u64 address, u64 *pte, bool write) {
    vm_area_struct &v = m.vmas[vma];
    const u32 index = pte_index(address);
    u32 slot = pte_swp_offset(*pte);
    u32 head = swap_cache_get(m, slot), nr = 1;
    bool exclusive = *pte & PTE_SWP_EXCLUSIVE;
    m.spend(TIME_fault, m.cost().fault);
    if (head != NIL) { // swap_update_readahead
        const readahead last = unpack(v.swap_readahead);
        const bool hit = m.pages[head].flags & PG_readahead;
        v.swap_readahead = pack(address >> PAGE_SHIFT, last.window, std::min(last.hits + hit, 63U));
        m.pages[head].flags &= ~u32{PG_readahead};
    } else {
        m.count(VM_pgmajfault);
        ++m.mms[v.vm_mm].majflt;
        if (swap_count(m, slot) == 1) { // zram is synchronous: no need of the swap cache
            head = alloc_swap_folio(m, v, address, pte);
            if (head == NIL) return FAULT_OOM;
            nr = folio_nr_pages(m, head);
            const u32 back = index % nr;
            slot -= back;
            pte -= back;
            address = align_down(address, PAGE_SIZE) - (u64{back} << PAGE_SHIFT);
            for (u32 i = 0; i < nr; ++i) swap_read_page(m, slot + i, head + i);
            if (nr > 1 && !m.swap[slot].zeromap) m.count(MTHP_swpin, m.pages[head].order);
            m.pages[head].refcount = 0;
            exclusive = true;
        } else {
            head = swapin_readahead(m, vma, address, pte);
            if (head == NIL) return FAULT_OOM;
        }
    }
    page &folio = m.pages[head];
    const bool cached = folio.flags & PG_swapcache;
    const bool mapped = folio.mapcount > 0;
    for (u32 i = 0; i < nr; ++i) --m.swap[slot + i].count;
    const bool last_reference = cached && folio.refcount == 1 && write;
    if (last_reference && swap_count(m, slot) == 0) {
        folio_get(m, head, 1);
        folio_free_swap(m, head);
        --folio.refcount;
    }
    for (u32 i = 0; i < nr && !cached; ++i) swap_put(m, slot + i);
    m.mms[v.vm_mm].swapents -= nr;
    exclusive = exclusive || folio.refcount == 0;
    u64 bits = vma_pte_bits(v, exclusive) | PTE_ACCESSED;
    if (write && exclusive) bits |= PTE_DIRTY;
    folio_get(m, head, static_cast<i32>(nr));
    if (mapped) {
        folio_add_anon_rmap_ptes(m, head, nr, v.vm_mm);
        m.mms[v.vm_mm].rss += nr;
    } else {
        folio_add_new_anon_rmap(m, head, vma, align_down(address, PAGE_SIZE), false);
        if (!exclusive) folio.flags &= ~u32{PG_anon_exclusive};
    }
    for (u32 i = 0; i < nr; ++i) pte[i] = mk_pte(head + i, bits);
    return write && !exclusive ? do_wp_page(m, vma, address, pte) : FAULT_DONE;
}

int willneed(machine &m, u32 vma, u64 start, u64 end) {
    for (u64 at = start; at < end; at += PAGE_SIZE) {
        const u64 *pte = pte_lookup(m, m.vmas[vma].vm_mm, at);
        if (!pte || !is_swap_pte(*pte) || swap_cache_get(m, pte_swp_offset(*pte)) != NIL) continue;
        if (read_swap_cache(m, pte_swp_offset(*pte)) == NIL) return -ENOMEM;
    }
    return 0;
}

} // namespace thp
