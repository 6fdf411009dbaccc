// mm/khugepaged.c: collapsing small pages into one folio, for khugepaged and for who asks.
#pragma once
#include "../state.hpp"

namespace thp {

enum scan_result : u32 {
    SUCCEED,
    PMD_MAPPED,
    PMD_NULL,
    PMD_NONE,
    EXCEED,
    LACK_REFERENCED,
    PAGE_COUNT,
    ALLOC_FAIL,
    CHARGE_FAIL,
    FAIL,
    PTE_MAPPED // by a folio that is as large already
};

// Whether a VMA may hold a collapsed folio; forced: by MADV_COLLAPSE, which asks no sysfs.
bool allowable(const machine &m, const vm_area_struct &v, bool forced);
// 2M blocks from an address on that certainly hold nothing, since there is no PMD table for them; else 1.
u64 blocks_at(machine &m, u32 mm, u64 address);
// Collapses a 2M block if it is worth it, or parts of it; MADV_COLLAPSE does not ask what it is worth.
scan_result collapse(machine &m, u32 vma, u64 start, bool khugepaged);

} // namespace thp
