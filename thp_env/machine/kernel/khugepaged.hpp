// mm/khugepaged.c: collapsing 512 pages into one PMD-mapped folio.
#pragma once
#include "../state.hpp"

namespace thp {

// Puts a process on khugepaged's list if the VMA could be collapsed (R45).
void khugepaged_enter_vma(machine &m, u32 vma);
// One pass over every process on the list: 0, or -ENEEDORDER when nothing has been done yet.
int khugepaged_scan(machine &m);
// MADV_COLLAPSE on a part of a VMA (R44); 0 or a negative errno.
int madvise_collapse(machine &m, u32 vma, u64 start, u64 end);

} // namespace thp
