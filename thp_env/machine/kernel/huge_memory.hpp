// mm/huge_memory.c: which sizes a VMA may use, PMD-mapped folios, splitting.
#pragma once
#include "../state.hpp"

namespace thp {

// Orders that settings and flags allow a VMA (R1), without and with its own mask (E1).
u32 thp_orders_by_settings(const machine &m, const vm_area_struct &vma);
u32 thp_vma_allowable_orders(const machine &m, const vm_area_struct &vma);
// How hard an allocation for the VMA may try, by `defrag`.
u32 vma_thp_gfp_mask(const machine &m, const vm_area_struct &vma);
// Of `orders`, those whose aligned block around the address lies inside the VMA.
u32 thp_vma_suitable_orders(const vm_area_struct &vma, u64 address, u32 orders);

enum vm_fault : u32 { FAULT_DONE, FAULT_FALLBACK, FAULT_SIGSEGV, FAULT_OOM, FAULT_NEED_ORDER };

vm_fault do_huge_pmd_anonymous_page(machine &m, u32 vma, u64 address, u64 *pmd, bool write);
vm_fault do_huge_pmd_wp_page(machine &m, u32 vma, u64 address, u64 *pmd);

// Replaces a PMD mapping by 512 PTEs; the folio stays as it is (R17).
bool split_huge_pmd(machine &m, u32 vma, u64 *pmd, u64 address);
// At the edge of a VMA that is about to be cut there.
bool split_huge_pmd_if_needed(machine &m, u32 vma, u64 address);
void zap_huge_pmd(machine &m, u32 vma, u64 *pmd);
void change_huge_pmd(machine &m, const vm_area_struct &vma, u64 *pmd);

// Queues a folio for the shrinker (R14).
void deferred_split_folio(machine &m, u32 head, bool partially_mapped);
void folio_unqueue_deferred_split(machine &m, u32 head);
// The shrinker: looks at nr folios of the list and splits those that are partially mapped or underused (R19,
// R22). Returns how many it split.
u32 deferred_split_scan(machine &m, u32 memcg, u32 nr);

// Splits a folio to order 0 (R20, R21); 0 or -EAGAIN when somebody else holds a reference.
int split_folio(machine &m, u32 head);
// Turns every PMD mapping of a folio into PTEs (try_to_migrate with TTU_SPLIT_HUGE_PMD).
bool unmap_pmds(machine &m, u32 head);
// E2: splits the large folios that a range maps.
void split_folios_in_range(machine &m, u32 mm, u64 start, u64 end);

// Takes a reference to the huge zero folio for a process, once; false when there is no memory for it.
bool mm_get_huge_zero_folio(machine &m, u32 mm);

} // namespace thp
