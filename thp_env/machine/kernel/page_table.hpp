// Page-table entries (x86-64, 4 levels) and the tables that hold them.
#pragma once
#include "../state.hpp"
#include <algorithm>

namespace thp {

// Intel SDM vol. 3, 4.5; PROTNONE, SPECIAL and GUARD are software bits, as in
// arch/x86/include/asm/pgtable_types.h.
enum pte_bits : u64 {
    PTE_PRESENT = 1ULL << 0,
    PTE_RW = 1ULL << 1,
    PTE_ACCESSED = 1ULL << 5,
    PTE_DIRTY = 1ULL << 6,
    PTE_PSE = 1ULL << 7, // a PMD that maps 2M
    PTE_PROTNONE = 1ULL << 8,
    PTE_SPECIAL = 1ULL << 9, // the zero page
    PTE_GUARD = 1ULL << 10,  // marker of a guard region, not present
    PTE_SWAP = 1ULL << 11,   // swapped out, not present: the slot stands in place of the frame
    PTE_SWP_EXCLUSIVE = 1ULL << 3,
    PTE_CONT = 1ULL << 52, // arm64: one of 16 entries that map an aligned 64K together
};
constexpr u32 PTE_PFN_SHIFT = 12;

inline u32 pte_pfn(u64 pte) { return static_cast<u32>((pte >> PTE_PFN_SHIFT) & 0xffffffffU); }
inline bool pte_none(u64 pte) { return pte == 0; }
// Present for the kernel: also pages that mprotect(PROT_NONE) hides from the program.
inline bool pte_present(u64 pte) { return pte & (PTE_PRESENT | PTE_PROTNONE); }
inline bool pmd_trans_huge(u64 pmd) { return pte_present(pmd) && (pmd & PTE_PSE); }
inline bool pmd_is_table(u64 pmd) { return pte_present(pmd) && !(pmd & PTE_PSE); }
inline u64 mk_pte(u32 pfn, u64 bits) { return (u64{pfn} << PTE_PFN_SHIFT) | bits; }

inline u32 pte_index(u64 address) { return (address >> PAGE_SHIFT) & (PTRS_PER_TABLE - 1); }

// The entries for an address; nullptr where a table is missing.
u64 *pmd_offset(machine &m, u32 mm, u64 address);
inline u64 *pte_offset(machine &m, u64 pmd, u64 address) {
    return m.page_tables + u64{pte_pfn(pmd)} * PTRS_PER_TABLE + pte_index(address);
}
// The PTE for an address if its PMD is a table.
u64 *pte_lookup(machine &m, u32 mm, u64 address);

// The entry that maps an address, a PTE or a PMD with PTE_PSE; 0 when there is none.
u64 follow_entry(machine &m, u32 mm, u64 address);

// As above, but missing tables are allocated; nullptr when memory or the table pool is exhausted.
u64 *pmd_alloc(machine &m, u32 mm, u64 address);
bool pte_alloc(machine &m, u64 *pmd); // turns pmd_none into an empty table

// Calls visit(start, end, pmd) for the part of [start, end) under each PMD that is not none, until one
// returns false. Returns whether all were visited.
template <typename Visit> bool walk_pmd_range(machine &m, u32 mm, u64 start, u64 end, Visit visit) {
    for (u64 at = start, next = 0; at < end; at = next) {
        m.host.work(8);
        next = std::min(align_down(at, PMD_SIZE) + PMD_SIZE, end);
        u64 *pmd = pmd_offset(m, mm, at);
        if (!pmd) { // skip what has no tables at all
            next = std::min(align_down(at, 1ULL << PUD_SHIFT) + (1ULL << PUD_SHIFT), end);
        } else if (!pte_none(*pmd) && !visit(at, next, pmd)) {
            return false;
        }
    }
    return true;
}

u32 table_page_alloc(machine &m, u32 gfp);
void table_page_free(machine &m, u32 table);

// Frees the tables that serve no address outside [floor, ceiling) (mm/memory.c: free_pgtables).
void free_pgtables(machine &m, u32 mm, u64 start, u64 end, u64 floor, u64 ceiling);
// Frees one empty table under a PMD (mm/pt_reclaim.c).
void free_pte_table(machine &m, u64 *pmd);

} // namespace thp
