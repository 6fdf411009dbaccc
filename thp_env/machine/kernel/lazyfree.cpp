#include "lazyfree.hpp"
#include "../hardware/tlb.hpp"
#include "contpte.hpp"
#include "huge_memory.hpp"
#include "lru.hpp"
#include "memory.hpp"
#include "page_alloc.hpp"
#include "page_table.hpp"
#include "rmap.hpp"

namespace thp {

namespace {

// try_to_unmap_one for a lazily freed folio (R32): what one page table maps of it goes in batches, up to one
// that was written to; then the folio is dirty, and swapbacked again. Returns whether all went.
bool discard_ptes(machine &m, u32 head, u32 mm, u64 address, u64 *pte, u32 count, bool extra_refs) {
    page &folio = m.pages[head];
    for (u32 i = 0, nr = 1; i < count; i += nr) {
        const u64 at = address + (u64{i} << PAGE_SHIFT);
        nr = 1;
        if (!pte_present(pte[i]) || (pte[i] & PTE_SPECIAL) || page_head(m, pte_pfn(pte[i])) != head) continue;
        nr = folio_pte_batch(m, pte + i, count - i);
        for (u32 k = i; k < i + nr; ++k) folio.flags |= ptep_get(m, pte + k) & PTE_DIRTY ? PG_dirty : 0U;
        if (folio.flags & PG_dirty) {
            lru_del(m, head);
            folio.flags |= PG_swapbacked;
        }
        if ((folio.flags & PG_dirty) || extra_refs) return false;
        unmap_folio_ptes(m, mm, at, pte + i, nr);
        flush_tlb_range(m, mm, at, at + nr * PAGE_SIZE);
    }
    return true;
}

} // namespace

outcome shrink_lazyfree(machine &m, u32 head, bool extra_refs) {
    if (extra_refs && !folio_mapped(m, head)) return KEEP; // folio_ref_freeze
    const u32 nr_pages = folio_nr_pages(m, head);
    bool discarded = true;
    folio_get(m, head, 1);
    rmap_walk(m, head, [&](u32 vma, u32 first, u32 nr) {
        const u32 mm = m.vmas[vma].vm_mm;
        const u64 start = folio_address(m, head, first, vma), end = start + nr * PAGE_SIZE;
        discarded = walk_pmd_range(m, mm, start, end, [&](u64 at, u64 next, u64 *pmd) {
            if (pmd_trans_huge(*pmd) && pte_pfn(*pmd) != head) return true;
            if (pmd_trans_huge(*pmd) && !split_huge_pmd(m, vma, pmd, at)) return false;
            return discard_ptes(m, head, mm, at, pte_offset(m, *pmd, at),
                                static_cast<u32>((next - at) >> PAGE_SHIFT), extra_refs);
        });
        return discarded;
    });
    if (discarded) m.count(VM_pglazyfreed, nr_pages);
    folio_put(m, head, 1);
    return discarded ? RECLAIMED : ACTIVATE;
}

} // namespace thp
