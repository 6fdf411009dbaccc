// mm/khugepaged.c: collapsing 512 pages into one PMD-mapped folio.
#pragma once
#include "../state.hpp"

namespace thp {

// Puts a process on khugepaged's list if the VMA could be collapsed with these flags (R45).
void khugepaged_enter_vma(machine &m, u32 vma, u32 vm_flags);
// The daemon: when it is due it looks at khugepaged_pages, each 2M block that has a page table counting as
// 512, and goes to sleep. Asks nobody for orders. With a sleep of 0 it never sleeps, and others run as the
// scheduler lets them.
void khugepaged_do_scan(machine &m);
inline u64 khugepaged_due(const machine &m) {
    return m.h->policy.khugepaged_pages ? m.h->policy.khugepaged_wakes : ~0ULL;
}

// One pass over every process on the list: 0, or -ENEEDORDER when nothing has been done yet. Tells whether
// there was anything to scan.
int khugepaged_scan(machine &m, bool *scanned);
// MADV_COLLAPSE on a part of a VMA (R44); 0 or a negative errno.
int madvise_collapse(machine &m, u32 vma, u64 start, u64 end);
// The same to a size below 2M, as DAMON's collapse action takes one: blocks of 2^order pages that are not
// empty become one folio each, whatever max_ptes_* say.
int collapse_range(machine &m, u32 mm, u64 start, u64 end, u32 order);

} // namespace thp
