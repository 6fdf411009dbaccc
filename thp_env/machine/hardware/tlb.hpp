// The TLB: two levels of arrays, filled by walks, invalidated by the kernel.
// Intel SDM vol. 3, 4.10; AMD APM vol. 2, 5.5; Arm ARM D8.13 and D8.16.
#pragma once
#include "../state.hpp"
#include <algorithm>
#include <string>

namespace thp {

std::string check_tlb(const tlb_config &config);
void tlb_init(machine &m);

// Invalidates [start, end) of an address space: page by page, or the whole of it beyond Linux's ceiling
// of 33.
void flush_tlb_range(machine &m, u32 mm, u64 start, u64 end, u32 stride_shift = PAGE_SHIFT);
void flush_tlb_mm(machine &m, u32 mm);

// The CPU turns to an address space: where hardware ASIDs are scarce, another one may lose its translations.
void switch_mm(machine &m, u32 mm);

// include/asm-generic/tlb.h: what one unmapping has to invalidate, in one go.
struct mmu_gather {
    u64 start = ~0ULL, end = 0;
    u32 stride_shift = PMD_SHIFT;

    void add(u64 from, u64 to, u32 shift) {
        start = std::min(start, from);
        end = std::max(end, to);
        stride_shift = std::min(stride_shift, shift);
    }
    void flush(machine &m, u32 mm) const {
        if (end > start) flush_tlb_range(m, mm, start, end, stride_shift);
    }
};

} // namespace thp
