#include "cont_pte_fault.hpp"
#include "../hardware/tlb.hpp"
#include "huge_memory_bpf.hpp"
#include "lru.hpp"
#include "memcontrol.hpp"
#include "page_alloc.hpp"
#include "page_table.hpp"
#include "rmap.hpp"
#include <algorithm>

namespace thp {

namespace {

// The 16 entries around one if they map an aligned 64K of one folio that the process may not write to.
u64 *shared_cont_block(const machine &m, const vm_area_struct &v, u64 address, u64 *pte) {
    u64 *block = contpte_align_down(m, pte);
    if (!thp_vma_suitable_orders(v, address, 1U << CONT_PTE_ORDER)) return nullptr;
    if (!pte_present(*block) || (*block & PTE_SPECIAL) || pte_pfn(*block) % CONT_PTES) return nullptr;
    if (folio_pte_batch(m, block, CONT_PTES) < CONT_PTES) return nullptr;
    const bool writable = std::any_of(block, block + CONT_PTES, [](u64 entry) { return entry & PTE_RW; });
    return writable ? nullptr : block;
}

} // namespace

bool set_cont_pte_huge_zero_page(machine &m, u32 vma, u64 address, u64 *pte) {
    const vm_area_struct &v = m.vmas[vma];
    u64 *block = contpte_align_down(m, pte);
    if (!thp_vma_suitable_orders(v, address,
                                 thp_get_orders(m, v, address, TVA_PAGEFAULT) & 1U << CONT_PTE_ORDER))
        return false;
    if (!pte_range_none(block, CONT_PTES) || !mm_get_huge_zero_folio(m, v.vm_mm)) return false;
    const u64 bits = vma_pte_bits(v, false) | PTE_SPECIAL | PTE_ACCESSED;
    set_ptes(m, v.vm_mm, align_down(address, CONT_PTE_SIZE), block, mk_pte(m.h->huge_zero_pfn, bits),
             CONT_PTES);
    m.spend(TIME_fault, m.cost().fault_zero_page);
    return true;
}

vm_fault do_cont_pte_zero_wp(machine &m, u32 vma, u64 address, u64 *pte) {
    if (!anon_vma_prepare(m, vma)) return FAULT_OOM;
    const vm_area_struct &v = m.vmas[vma];
    if (!thp_vma_suitable_orders(v, address, 1U << CONT_PTE_ORDER)) { // the VMA was cut since
        contpte_try_unfold(m, v.vm_mm, address, pte);
        return FAULT_FALLBACK;
    }
    bool charge_failed = false;
    const u32 head =
        folio_alloc_charged(m, CONT_PTE_ORDER, vma_thp_gfp_mask(m, v), vma_memcg(m, v), &charge_failed);
    if (head == NIL) {
        m.count(MTHP_anon_fault_fallback, CONT_PTE_ORDER);
        if (charge_failed) m.count(MTHP_anon_fault_fallback_charge, CONT_PTE_ORDER);
        contpte_try_unfold(m, v.vm_mm, address, pte);
        return FAULT_FALLBACK;
    }
    const u64 start = align_down(address, CONT_PTE_SIZE);
    u64 *block = contpte_align_down(m, pte);
    m.spend(TIME_fault, m.cost().fault);
    m.spend(TIME_zeroing, m.cost().zero_page * CONT_PTES);
    m.count(MTHP_anon_fault_alloc, CONT_PTE_ORDER);
    clear_full_ptes(m, v.vm_mm, start, block, CONT_PTES);
    map_anon_folio_pte(m, vma, head, start, block);
    folio_add_lru_vma(m, head, vma);
    flush_tlb_range(m, v.vm_mm, start, start + CONT_PTE_SIZE);
    ++m.vmas[vma].faults[CONT_PTE_ORDER];
    return FAULT_DONE;
}

vm_fault do_cont_pte_wp(machine &m, u32 vma, u64 address, u64 *pte) {
    const vm_area_struct &v = m.vmas[vma];
    u64 *block = shared_cont_block(m, v, address, pte);
    if (!block) return FAULT_FALLBACK;
    const u64 start = align_down(address, CONT_PTE_SIZE);
    const u32 old = pte_pfn(*block);
    bool charge_failed = false, complete = true;
    folio_get(m, page_head(m, old), 1); // not to be reclaimed while it is copied
    u32 copies[CONT_PTES] = {
        folio_alloc_charged(m, CONT_PTE_ORDER, vma_thp_gfp_mask(m, v), vma_memcg(m, v), &charge_failed)};
    const u32 nr = copies[0] == NIL ? CONT_PTES : 1, pages = CONT_PTES / nr;
    for (u32 i = 0; i < nr && nr > 1; ++i) {
        copies[i] = complete ? folio_prealloc(m, vma_memcg(m, v)) : NIL;
        complete = copies[i] != NIL;
    }
    --m.pages[page_head(m, old)].refcount;
    for (u32 i = 0; i < nr && !complete; ++i) {
        if (copies[i] != NIL) folio_put(m, copies[i], 1);
    }
    if (!complete) return FAULT_OOM;
    m.count(nr == 1 ? VM_thp_cow : VM_thp_cow_fallback);
    m.spend(TIME_fault, m.cost().fault);
    m.spend(TIME_copying, m.cost().copy_page * CONT_PTES);
    for (u32 i = 0; i < CONT_PTES; ++i) {
        u8 &content = m.contents[copies[i / pages] + i % pages];
        content = static_cast<u8>((content & CONTENT_TOUCHED) | (m.contents[old + i] & CONTENT_MASK));
    }
    unmap_folio_ptes(m, v.vm_mm, start, block, CONT_PTES);
    for (u32 i = 0; i < nr; ++i) {
        map_anon_folio_pte(m, vma, copies[i], start + (u64{i * pages} << PAGE_SHIFT), block + i * pages);
        folio_add_lru_vma(m, copies[i], vma);
    }
    flush_tlb_range(m, v.vm_mm, start, start + CONT_PTE_SIZE);
    return FAULT_DONE;
}

} // namespace thp
