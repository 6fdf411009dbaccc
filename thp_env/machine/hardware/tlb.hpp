// The TLB: set-associative arrays with LRU, filled by walks, invalidated by the kernel.
// Intel SDM vol. 3, 4.10; AMD APM vol. 2, 5.5.
#pragma once
#include "../state.hpp"
#include <algorithm>
#include <string>

namespace thp {

enum page_size : u32 { SIZE_4K, SIZE_2M };
constexpr u32 page_shift_of[NR_PAGE_SIZES] = {PAGE_SHIFT, PMD_SHIFT};

constexpr u64 TLB_WRITE = 1; // data: writable and the dirty bit is set
constexpr u32 TLB_CONTENT_SHIFT = 8, TLB_PFN_SHIFT = 16;
constexpr u64 TLB_NO_CONTENT = 0xffULL << TLB_CONTENT_SHIFT; // nothing written through this entry yet

u32 tlb_entries(const tlb_config &config);
std::string check_tlb(const tlb_config &config);
void tlb_init(machine &m);

// Invalidates [start, end) of an address space: page by page, or the whole of it beyond Linux's ceiling
// of 33.
void flush_tlb_range(machine &m, u32 mm, u64 start, u64 end, u32 stride_shift = PAGE_SHIFT);
void flush_tlb_mm(machine &m, u32 mm);

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

inline u64 tlb_tag(u64 address, u32 shift, u32 size, u32 asid) {
    return (address >> shift) << 16 | u64{asid} << 4 | u64{size} << 1 | 1;
}

// One set-associative array: entries of a set stand in LRU order, the most recent first.
struct tlb_array {
    tlb_entry *entries;
    u32 sets, ways;

    tlb_entry *set_of(u64 number) const { return entries + (number & (sets - 1)) * ways; }

    // The entry, moved to the front of its set; nullptr when it is not there.
    tlb_entry *find(u64 number, u64 tag) const { return find_either(set_of(number), tag, tag); }

    // The same for a set that may hold either of two tags.
    tlb_entry *find_either(tlb_entry *set, u64 tag, u64 other) const {
        if (set[0].tag == tag || set[0].tag == other) return set;
        for (u32 way = 1; way < ways; ++way) {
            if (set[way].tag != tag && set[way].tag != other) continue;
            const tlb_entry hit = set[way];
            std::copy_backward(set, set + way, set + way + 1);
            set[0] = hit;
            return set;
        }
        return nullptr;
    }

    tlb_entry *insert(u64 number, tlb_entry entry) const {
        tlb_entry *set = set_of(number);
        std::copy_backward(set, set + ways - 1, set + ways);
        set[0] = entry;
        return set;
    }
};

inline tlb_array tlb_array_at(machine &m, u32 which, u32 array) {
    const tlb_config &c = m.h->config.tlb;
    const tlb_geometry &g = array < NR_TLB_ARRAYS ? c.arrays[array] : c.pwc[array - NR_TLB_ARRAYS];
    return {m.tlb + m.h->tlb_array[which][array], g.sets, g.ways};
}

} // namespace thp
