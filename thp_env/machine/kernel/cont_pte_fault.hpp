// What OPPO's 5.15 does at faults to a block of 16 pages at once (features zero_64k and cow_64k).
#pragma once
#include "contpte.hpp"
#include "memory.hpp"

namespace thp {

// Maps 16 folded zero pages on a read fault; false when the block is in use or not allowed.
bool set_cont_pte_huge_zero_page(machine &m, u32 vma, u64 address, u64 *pte);
// A write to folded zero pages: a 64K folio, as R11; without memory for it FAULT_FALLBACK, with 16 base zero
// pages.
vm_fault do_cont_pte_zero_wp(machine &m, u32 vma, u64 address, u64 *pte);
// A write to a block that is shared as a whole: copies all of it, to a 64K folio or else to 16 pages.
// FAULT_FALLBACK when it is no such block.
vm_fault do_cont_pte_wp(machine &m, u32 vma, u64 address, u64 *pte);

} // namespace thp
