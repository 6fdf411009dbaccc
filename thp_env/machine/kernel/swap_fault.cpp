// mm/memory.c: do_swap_page.
#include "../hardware/tlb.hpp"
#include "contpte.hpp"
#include "huge_memory_bpf.hpp"
#include "lru.hpp"
#include "memcontrol.hpp"
#include "memory.hpp"
#include "page_alloc.hpp"
#include "psi.hpp"
#include "rmap.hpp"
#include "swap.hpp"
#include "workingset.hpp"
#include <algorithm>
#include <bit>
#include <cerrno>

namespace thp {

namespace {

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

// swapin_whole: the size that a folio had when it went, as one bit. Each cluster of slots holds one size.
u32 swapped_out_order(const machine &m, u64 pte) {
    if (!feature(m, FEATURE_swapin_whole)) return 0;
    return 1U << m.clusters[pte_swp_offset(pte) / SWAPFILE_CLUSTER].order & THP_ORDERS_ALL_ANON;
}

// swapin_whole: also a shared folio comes back whole, as a copy of its own for each process.
bool swaps_in_whole(const machine &m, const vm_area_struct &v, u64 address, const u64 *pte) {
    const u32 bit = thp_vma_suitable_orders(v, address, swapped_out_order(m, *pte) & ~(1U << PMD_ORDER));
    if (bit == 0) return false;
    const u32 back = pte_index(address) % bit;
    return pte_swp_offset(*pte) % bit == back && can_swapin_thp(m, pte - back, bit);
}

// R40-R42: the largest allowed order whose block is swapped to slots aligned like itself.
u32 alloc_swap_folio(machine &m, const vm_area_struct &v, u64 address, const u64 *pte) {
    const u32 allowed = thp_get_orders(m, v, address, TVA_SWAP_PAGEFAULT) | swapped_out_order(m, *pte);
    u32 orders = swapin_orders(m, v, address, pte, allowed);
    const u32 gfp = vma_thp_gfp_mask(m, v), memcg = swap_memcg(m, pte_swp_offset(*pte), vma_memcg(m, v));
    while (orders) {
        const u32 order = static_cast<u32>(std::bit_width(orders)) - 1;
        orders &= ~(1U << order);
        bool charge_failed = false;
        const u32 head = folio_alloc_charged(m, order, gfp, memcg, &charge_failed);
        if (head != NIL) return head;
        m.count(MTHP_swpin_fallback, order);
        if (charge_failed) m.count(MTHP_swpin_fallback_charge, order);
    }
    return folio_prealloc(m, memcg);
}

// The only user of the slots, on a synchronous device such as zram: no need of the swap cache.
vm_fault swap_in_folio(machine &m, u32 vma, u64 address, u64 *pte, bool write) {
    const vm_area_struct &v = m.vmas[vma];
    const u32 head = alloc_swap_folio(m, v, address, pte);
    if (head == NIL) return FAULT_OOM;
    const u32 nr = folio_nr_pages(m, head), back = pte_index(address) % nr;
    pte -= back;
    const u32 slot = pte_swp_offset(*pte);
    const u64 start = m.h->clock;
    for (u32 i = 0; i < nr; ++i) swap_read_page(m, slot + i, head + i);
    const u64 read = m.h->clock;
    if (nr > 1 && !m.swap[slot].zeromap) m.count(MTHP_swpin, m.pages[head].order);
    workingset_refault(m, head, m.swap[slot].evicted);
    if (m.pages[head].flags & PG_workingset) psi_stalled(m, start, read); // swap_read_folio
    swap_free(m, slot, nr);
    m.mms[v.vm_mm].swapents -= nr;
    lru_add(m, head); // a locked VMA does not lock it: reclaim does, once it comes by
    map_anon_folio_pte(m, vma, head, align_down(address, PAGE_SIZE) - (u64{back} << PAGE_SHIFT), pte, write);
    return FAULT_DONE;
}

} // namespace

u32 swapin_orders(const machine &m, const vm_area_struct &vma, u64 address, const u64 *pte, u32 orders) {
    const u32 slot = pte_swp_offset(*pte);
    orders = thp_vma_suitable_orders(vma, address, orders & ~(1U << PMD_ORDER));
    for (; orders; orders &= ~std::bit_floor(orders)) { // where a larger block fits a smaller one does too
        const u32 nr = std::bit_floor(orders);
        if ((address >> PAGE_SHIFT) % nr == slot % nr && can_swapin_thp(m, pte - pte_index(address) % nr, nr))
            break;
    }
    return orders;
}

void map_cached_page(machine &m, u32 vma, u64 address, u64 *pte, u32 head, bool exclusive) {
    page &folio = m.pages[head];
    const bool mapped = folio.mapcount > 0;
    m.mms[m.vmas[vma].vm_mm].swapents -= 1;
    folio_get(m, head, 1);
    if (mapped) {
        folio_add_anon_rmap_ptes(m, head, 1, m.vmas[vma].vm_mm);
        ++m.mms[m.vmas[vma].vm_mm].rss;
        if (m.vmas[vma].vm_flags & VM_LOCKED) folio_set_mlocked(m, head, true);
    } else {
        folio_add_new_anon_rmap(m, head, vma, align_down(address, PAGE_SIZE), false);
        if (!exclusive) folio.flags &= ~u32{PG_anon_exclusive};
    }
    *pte = mk_pte(head, vma_pte_bits(m.vmas[vma], exclusive));
}

vm_fault do_swap_page(machine &m, u32 vma, u64 address, u64 *pte, bool write) {
    const u32 slot = pte_swp_offset(*pte);
    u32 head = swap_cache_get(m, slot);
    m.spend(TIME_fault, m.cost().fault);
    if (head == NIL) {
        m.count(VM_pgmajfault);
        ++m.mms[m.vmas[vma].vm_mm].majflt;
        if (swap_count(m, slot) == 1 || swaps_in_whole(m, m.vmas[vma], address, pte))
            return swap_in_folio(m, vma, address, pte, write);
        head = swapin_readahead(m, vma, address, pte);
        if (head == NIL) return FAULT_OOM;
    } else {
        swap_update_readahead(m, vma, address, head);
    }
    bool exclusive = *pte & PTE_SWP_EXCLUSIVE;
    --m.swap[slot].count;
    // should_try_to_free_swap: a page that nobody else can want leaves the swap cache to be written to, and
    // any page does where swap is short or that is locked.
    const bool alone = m.pages[head].refcount == 1, locked = m.vmas[vma].vm_flags & VM_LOCKED;
    if ((write && alone) || vm_swap_full(m) || locked || (m.pages[head].flags & PG_mlocked)) {
        folio_get(m, head, 1);
        exclusive = (folio_free_swap(m, head) && alone) || exclusive;
        --m.pages[head].refcount;
    }
    map_cached_page(m, vma, address, pte, head, exclusive);
    *pte |= PTE_ACCESSED | (write && exclusive ? u64{PTE_DIRTY} : 0);
    return write && !exclusive ? do_wp_page(m, vma, address, pte) : FAULT_DONE;
}

} // namespace thp
