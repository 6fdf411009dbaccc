// arch/arm64/include/asm/pgtable.h, arch/arm64/mm/contpte.c: 16 PTEs that map an aligned 64K with one
// translation (X2-X6). Everywhere else no entry has PTE_CONT, and these functions are plain loads and stores.
#pragma once
#include "page_table.hpp"

namespace thp {

constexpr u32 CONT_PTE_ORDER = 4, CONT_PTES = 1U << CONT_PTE_ORDER;
constexpr u64 CONT_PTE_SIZE = PAGE_SIZE << CONT_PTE_ORDER;

inline bool arch_has_contpte(const machine &m) { return m.h->config.arch != ARCH_X86_64; }
// The first entry of the block that holds an entry.
inline u64 *contpte_align_down(const machine &m, u64 *pte) { return pte - (pte - m.page_tables) % CONT_PTES; }

// With entire_mapcount, whether a folded entry is part of a mapping that is counted once for all 16.
inline bool contpte_maps_entirely(const machine &m, u64 entry) {
    return feature(m, FEATURE_entire_mapcount) && (entry & PTE_CONT) && !(entry & PTE_SPECIAL) &&
           m.pages[page_head(m, pte_pfn(entry))].order == CONT_PTE_ORDER;
}

// X3: folds the block whose last entry this is, if one folio covers it with equal protection.
void contpte_fold_block(machine &m, u32 mm, u64 address, u64 *pte);
inline void contpte_try_fold(machine &m, u32 mm, u64 address, u64 *pte) {
    if (arch_has_contpte(m) && pte_index(address) % CONT_PTES == CONT_PTES - 1)
        contpte_fold_block(m, mm, address, pte);
}
// X4: rewrites the block of a folded entry as 16 entries of their own.
void contpte_unfold_block(machine &m, u32 mm, u64 address, u64 *pte);
inline void contpte_try_unfold(machine &m, u32 mm, u64 address, u64 *pte) {
    if (*pte & PTE_CONT) contpte_unfold_block(m, mm, address, pte);
}
// Unfolds only the blocks that nr entries cover in part.
void contpte_try_unfold_partial(machine &m, u32 mm, u64 address, u64 *pte, u32 nr);

// X5: the walker notes an access in any entry of the block, so a read gathers all of them.
u64 contpte_ptep_get(const machine &m, u64 *pte);
inline u64 ptep_get(const machine &m, u64 *pte) { return *pte & PTE_CONT ? contpte_ptep_get(m, pte) : *pte; }

// X2: marks the aligned blocks among nr entries that were just written, none of which was present before.
void contpte_set_ptes(machine &m, u64 address, u64 *pte, u32 nr);
// Maps nr consecutive frames from the one in `entry` on.
void set_ptes(machine &m, u32 mm, u64 address, u64 *pte, u64 entry, u32 nr);
inline void set_pte(machine &m, u32 mm, u64 address, u64 *pte, u64 entry) {
    contpte_try_unfold(m, mm, address, pte);
    *pte = entry;
    contpte_try_fold(m, mm, address, pte);
}

inline void clear_full_ptes(machine &m, u32 mm, u64 address, u64 *pte, u32 nr) {
    if (arch_has_contpte(m)) contpte_try_unfold_partial(m, mm, address, pte, nr);
    std::fill_n(pte, nr, 0);
}
inline void wrprotect_ptes(machine &m, u32 mm, u64 address, u64 *pte, u32 nr) {
    if (arch_has_contpte(m)) contpte_try_unfold_partial(m, mm, address, pte, nr);
    for (u32 i = 0; i < nr; ++i) pte[i] &= ~u64{PTE_RW};
}
// X5: clears bits of a range widened to whole blocks.
void clear_young_dirty_ptes(machine &m, u64 *pte, u32 nr, u64 bits);
bool ptep_test_and_clear_young(machine &m, u64 *pte);
// Permits a write or notes an access: unfolds where the permission changes (X6).
void ptep_set_access_flags(machine &m, u32 mm, u64 address, u64 *pte, u64 entry);

// What is wrong with the block of an entry, for validate(); nullptr when nothing is.
const char *contpte_broken(const machine &m, u64 address, u64 *pte);

} // namespace thp
