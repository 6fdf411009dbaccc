#include "contpte.hpp"
#include "../hardware/tlb.hpp"
#include "page_alloc.hpp"
#include "rmap.hpp"

namespace thp {

namespace {

constexpr u64 YOUNG_DIRTY = PTE_ACCESSED | PTE_DIRTY;

// contpte_convert: clear the block, invalidate it, write it anew; accesses anywhere in it are noted
// everywhere.
void contpte_convert(machine &m, u32 mm, u64 address, u64 *pte, bool fold) {
    u64 *block = contpte_align_down(m, pte);
    u64 noted = 0;
    for (u32 i = 0; i < CONT_PTES; ++i) noted |= block[i] & YOUNG_DIRTY;
    for (u32 i = 0; i < CONT_PTES; ++i) {
        block[i] = (block[i] & ~u64{PTE_CONT}) | noted | (fold ? u64{PTE_CONT} : 0);
    }
    m.count(fold ? VM_contpte_fold : VM_contpte_unfold);
    m.spend(TIME_splitting, m.cost().contpte_convert);
    // With FEAT_BBM level 2 and no conflict aborts, the size may change under a live translation, but not the
    // frames, which it does for zero pages.
    if (!fold && m.h->config.arch == ARCH_ARM64_BBML2 && !(*pte & PTE_SPECIAL)) return;
    m.count(VM_contpte_tlbi);
    const u64 start = align_down(address, CONT_PTE_SIZE);
    flush_tlb_range(m, mm, start, start + CONT_PTE_SIZE);
}

// __split_huge_cont_pte: one mapping of the whole becomes 16 of its pages.
void split_entire_mapping(machine &m, u32 mm, u32 head) {
    folio_get(m, head, CONT_PTES - 1);
    folio_add_anon_rmap_ptes(m, head, CONT_PTES, mm);
    folio_remove_rmap_pmd(m, head, mm);
    if (m.pages[head].entire_mapcount == 0 || (m.pages[head].flags & PG_double_map)) return;
    m.pages[head].flags |= PG_double_map;
    m.count(VM_cont_pte_double_map_count);
}

} // namespace

void contpte_try_unfold_partial(machine &m, u32 mm, u64 address, u64 *pte, u32 nr) {
    u64 *last = pte + nr - 1;
    if (pte != contpte_align_down(m, pte) || nr < CONT_PTES) contpte_try_unfold(m, mm, address, pte);
    if ((last - m.page_tables) % CONT_PTES != CONT_PTES - 1) {
        contpte_try_unfold(m, mm, address + (u64{nr - 1} << PAGE_SHIFT), last);
    }
}

void contpte_fold_block(machine &m, u32 mm, u64 address, u64 *pte) {
    const u64 last = *pte;
    if (feature(m, FEATURE_entire_mapcount)) return; // split mappings stay split
    if (pte_pfn(last) % CONT_PTES != CONT_PTES - 1) return;
    if (!(last & PTE_PRESENT) || (last & (PTE_CONT | PTE_SPECIAL)))
        return; // PROT_NONE is not valid to the MMU
    const u64 *block = contpte_align_down(m, pte);
    const u32 first = pte_pfn(last) - (CONT_PTES - 1);
    const u32 head = page_head(m, pte_pfn(last));
    if (head > first || head + folio_nr_pages(m, head) < first + CONT_PTES) return;
    const u64 prot = last - mk_pte(pte_pfn(last), 0);
    for (u32 i = 0; i < CONT_PTES; ++i) {
        if ((block[i] ^ mk_pte(first + i, prot)) & ~YOUNG_DIRTY) return;
    }
    contpte_convert(m, mm, address, pte, true);
}

void contpte_unfold_block(machine &m, u32 mm, u64 address, u64 *pte) {
    const bool entire = contpte_maps_entirely(m, *pte);
    contpte_convert(m, mm, address, pte, false);
    if (entire) split_entire_mapping(m, mm, page_head(m, pte_pfn(*pte)));
    if (!(*pte & PTE_SPECIAL)) return;
    u64 *block = contpte_align_down(m, pte); // 16 base zero pages
    const u64 bits = *pte - mk_pte(pte_pfn(*pte), 0);
    std::fill_n(block, CONT_PTES, mk_pte(m.h->zero_pfn, bits));
}

u64 contpte_ptep_get(const machine &m, u64 *pte) {
    const u64 *block = contpte_align_down(m, pte);
    u64 entry = *pte;
    for (u32 i = 0; i < CONT_PTES; ++i) entry |= block[i] & YOUNG_DIRTY;
    return entry;
}

void contpte_set_ptes(machine &m, u64 address, u64 *pte, u32 nr) {
    if (!arch_has_contpte(m) || !(*pte & PTE_PRESENT)) return;
    const u32 skip = (CONT_PTES - pte_index(address) % CONT_PTES) % CONT_PTES;
    if (nr < skip || (pte_pfn(*pte) + skip) % CONT_PTES != 0) return;
    const u32 end = skip + (nr - skip) / CONT_PTES * CONT_PTES;
    for (u32 i = skip; i < end; ++i) pte[i] |= PTE_CONT;
}

void set_ptes(machine &m, u32 mm, u64 address, u64 *pte, u64 entry, u32 nr) {
    if (nr == 1) return set_pte(m, mm, address, pte, entry);
    for (u32 i = 0; i < nr; ++i) pte[i] = entry + mk_pte(i, 0);
    contpte_set_ptes(m, address, pte, nr);
}

void clear_young_dirty_ptes(machine &m, u64 *pte, u32 nr, u64 bits) {
    u64 *first = *pte & PTE_CONT ? contpte_align_down(m, pte) : pte;
    u64 *last = pte + nr - 1;
    if (*last & PTE_CONT) last = contpte_align_down(m, last) + CONT_PTES - 1;
    for (u64 *at = first; at <= last; ++at) *at &= ~bits;
}

bool ptep_test_and_clear_young(machine &m, u64 *pte) {
    const bool young = ptep_get(m, pte) & PTE_ACCESSED;
    clear_young_dirty_ptes(m, pte, 1, PTE_ACCESSED);
    return young;
}

void ptep_set_access_flags(machine &m, u32 mm, u64 address, u64 *pte, u64 entry) {
    if ((*pte & PTE_CONT) && !((*pte ^ entry) & PTE_RW)) {
        u64 *block = contpte_align_down(m, pte);
        for (u32 i = 0; i < CONT_PTES; ++i) block[i] |= entry & YOUNG_DIRTY;
        return;
    }
    contpte_try_unfold(m, mm, address, pte);
    *pte = (*pte & YOUNG_DIRTY) | (entry & ~u64{PTE_CONT});
    contpte_try_fold(m, mm, address, pte);
}

const char *contpte_broken(const machine &m, u64 address, u64 *pte) {
    const u64 *block = contpte_align_down(m, pte);
    if (!(*pte & PTE_CONT)) return nullptr;
    const u32 first = pte_pfn(*block), i = pte_index(address) % CONT_PTES;
    if (!arch_has_contpte(m)) return "PTE_CONT on an architecture without it";
    if (first % CONT_PTES != 0) return "contpte block out of line";
    if (((*pte ^ *block) & ~YOUNG_DIRTY) != mk_pte(first ^ (first + i), 0)) return "uneven contpte block";
    if (!(block[0] & block[CONT_PTES - 1] & PTE_CONT)) return "part of a contpte block";
    if (*pte & PTE_SPECIAL) return nullptr;
    if (first + CONT_PTES > m.h->arrays[ARRAY_pages].used) return "contpte block beyond memory";
    const u32 head = page_head(m, first);
    return head + folio_nr_pages(m, head) < first + CONT_PTES ? "contpte block of two folios" : nullptr;
}

} // namespace thp
