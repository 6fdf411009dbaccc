// fs/proc/task_mmu.c: what a process's page tables hold (smaps, pagemap, clear_refs).
#pragma once
#include "../state.hpp"

namespace thp {

enum page_kind : u8 { KIND_NONE, KIND_FOLIO, KIND_ZERO, KIND_HUGE_ZERO, KIND_GUARD, KIND_SWAP, KIND_FILE };
enum layout_flags : u16 {
    LAYOUT_PMD = 1,
    LAYOUT_EXCLUSIVE = 2,
    LAYOUT_NOT_SWAPBACKED = 4,
    LAYOUT_NOT_LRU = 8,
    LAYOUT_YOUNG = 16,
    LAYOUT_DIRTY = 32,
    LAYOUT_TOUCHED = 64,
    LAYOUT_SWAPCACHE = 128,
    LAYOUT_CONT = 256, // one of the 16 entries of a contpte block
};

// One 4K page of an address range.
struct page_layout {
    u8 kind, order;
    u16 flags;
    u32 head;  // first frame of the folio; swapped: the slot
    u16 index; // position in the folio
    u8 content, spare;
    u32 mapcount;
};
static_assert(sizeof(page_layout) == 16);

void pagemap(machine &m, u32 mm, u64 start, u64 pages, page_layout *out);

// Of one VMA, in pages.
struct vma_smaps {
    u64 vm_start, vm_end;
    u32 vm_flags, orders, id, mm;
    u64 born;
    u64 faults[PMD_ORDER + 1];
    u64 zapped, zap_calls;
    u64 by_order[PMD_ORDER + 1];                          // pages mapped by folios of each order
    u64 swapped, zero, young, dirty, pmd_mapped, partial; // partial: pages of partially mapped folios
    u64 scanned;                                          // pages of the VMA that were looked at
    u64 asked, asked_faults, asked_zapped;                // vma_question
    u64 asked_clock, asked_walks;
    u64 reasons;         // why it is asked about (monitor.hpp)
    u64 times[NR_TIMES]; // vm_area_struct
};

// What is known of a VMA without reading its page tables.
vma_smaps vma_statistics(const vm_area_struct &v);
// ... and what its page tables hold in [start, end), which lies inside it; the accessed bits stay.
vma_smaps smaps_range(machine &m, u32 vma, u64 start, u64 end);

// Reads a VMA's page tables, of one in `every` 2M ranges, others the next time; 0: of none. clear_refs: also
// clears the accessed bits, without a TLB flush, as Linux does on x86.
vma_smaps smaps(machine &m, u32 vma, bool clear_refs, u32 interval = 1);

} // namespace thp
