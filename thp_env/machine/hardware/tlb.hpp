// The TLB: two levels of arrays, filled by walks, invalidated by the kernel.
// Intel SDM vol. 3, 4.10; AMD APM vol. 2, 5.5; Arm ARM D8.13 and D8.16.
#pragma once
#include "../state.hpp"
#include "tlb_array.hpp"
#include <algorithm>
#include <string>

namespace thp {

constexpr u64 TLB_WRITE = 1; // data: writable and the dirty bit is set
constexpr u32 TLB_PFN_SHIFT = 16;

u32 tlb_words(const tlb_config &config);
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

// virtual page number << 16 | address space << 4 | page size << 1 | 1
inline u64 tlb_tag(u64 address, u32 shift, u32 size, u32 mm) {
    return (address >> shift) << 16 | u64{mm} << 4 | u64{size} << 1 | 1;
}
inline u32 tag_mm(u64 tag) { return (tag >> 4) & 0xfff; }
inline u32 tag_size(u64 tag) { return (tag >> 1) & 7; }

// The arrays of one TLB over the words that hold them.
struct tlb {
    const tlb_config &config;
    tlb_array arrays[NR_TLB_ARRAYS], pwc[NR_PWC], nested;
    u32 shift[NR_PAGE_SIZES];

    tlb(const tlb_config &c, u64 *words);
    void init() const;

    // The data of an address at a level (0, 1), in an entry of one of the sizes given as bits; nullptr when
    // there is none.
    u64 *find(u32 level, u64 address, u32 mm, u32 sizes, u32 *size) const {
        for (; sizes; sizes &= sizes - 1) {
            *size = static_cast<u32>(std::countr_zero(sizes));
            const u32 id = config.of_size[level][*size];
            if (id == NIL) continue;
            const u64 tag = tlb_tag(address, shift[*size], *size, mm);
            if (u64 *data = arrays[id].find(address >> shift[*size], tag)) return data;
        }
        return nullptr;
    }

    // The largest size not above `size` that a level holds; NIL when there is no such level.
    u32 piece(u32 level, u32 size) const {
        while (config.of_size[level][size] == NIL && size != SIZE_4K) --size;
        return config.of_size[level][size] == NIL ? NIL : size;
    }

    // Puts the translation of the page at `address` to `pfn` in a level. Returns the size that the entry got.
    u32 fill(u32 level, u64 address, u32 mm, u32 size, u64 pfn, u64 flags) const {
        size = piece(level, size);
        if (size == NIL) return NIL;
        pfn &= ~((1ULL << (shift[size] - PAGE_SHIFT)) - 1);
        const u64 tag = tlb_tag(address, shift[size], size, mm);
        arrays[config.of_size[level][size]].insert(address >> shift[size], tag, pfn << TLB_PFN_SHIFT | flags);
        return size;
    }

    // The frame behind an address, from the data of an entry of a size.
    u64 pfn(u64 data, u64 address, u32 size) const {
        const u64 pages = 1ULL << (shift[size] - PAGE_SHIFT);
        return (data >> TLB_PFN_SHIFT) + ((address >> PAGE_SHIFT) & (pages - 1));
    }

    // Drops the translations of one page, whatever their size.
    void drop_page(u64 address, u32 mm, u32 sizes) const;
    void drop_walk_caches(u32 mm) const;
    void drop_mm(u32 mm) const;
};

inline tlb tlb_of(machine &m, u32 which) {
    return {m.h->config.tlb, m.tlb + u64{which} * tlb_words(m.h->config.tlb)};
}

} // namespace thp
