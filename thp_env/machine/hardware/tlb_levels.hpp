// Two levels of translations with their walk caches: what an address finds, and what a walk fills.
#pragma once
#include "tlb_array.hpp"

namespace thp {

constexpr u64 TLB_WRITE = 1; // data: writable and the dirty bit is set
constexpr u32 TLB_PFN_SHIFT = 16;

u32 tlb_words(const tlb_config &config);

// virtual page number << 16 | address space << 4 | page size << 1 | 1
inline u64 tlb_tag(u64 address, u32 shift, u32 size, u32 mm) {
    return (address >> shift) << 16 | u64{mm} << 4 | u64{size} << 1 | 1;
}
inline u32 tag_mm(u64 tag) { return (tag >> 4) & 0xfff; }
inline u32 tag_size(u64 tag) { return (tag >> 1) & 7; }

// The arrays of one TLB over the words that hold them.
struct tlb {
    tlb_array arrays[NR_TLB_ARRAYS], pwc[NR_PWC], nested;
    u32 shift[NR_PAGE_SIZES] = {};
    u32 of_size[2][NR_PAGE_SIZES] = {}; // which array holds a size at each level; NIL: none
    u32 piece[2][NR_PAGE_SIZES] = {}; // the largest size not above it that a level holds; NIL: no such level

    // A bit for each set of arrays[L2] that is filled, of the address space on the CPU; null: nobody wants to
    // know.
    u64 *filled_sets = nullptr;

    tlb() = default;
    tlb(const tlb_config &c, u64 *words);
    void init() const;

    // The data of an address at a level (0, 1), in an entry of one of the sizes given as bits; nullptr when
    // there is none.
    u64 *find(u32 level, u64 address, u32 mm, u32 sizes, u32 *size) const {
        for (; sizes; sizes &= sizes - 1) {
            *size = static_cast<u32>(std::countr_zero(sizes));
            const u32 id = of_size[level][*size];
            if (id == NIL) continue;
            const tag_key key(tlb_tag(address, shift[*size], *size, mm));
            if (u64 *data = arrays[id].find(address >> shift[*size], key)) return data;
        }
        return nullptr;
    }

    void note_filled(u64 number) const {
        if (!filled_sets) return;
        const u64 set = arrays[L2].set_number(number);
        filled_sets[set / 64] |= 1ULL << set % 64;
    }

    // Puts the translation of the page at `address` to `pfn` in a level. Returns the size that the entry got.
    u32 fill(u32 level, u64 address, u32 mm, u32 size, u64 pfn, u64 flags) const {
        size = piece[level][size];
        if (size == NIL) return NIL;
        pfn &= ~((1ULL << (shift[size] - PAGE_SHIFT)) - 1);
        const tag_key key(tlb_tag(address, shift[size], size, mm));
        if (of_size[level][size] == L2) note_filled(address >> shift[size]);
        arrays[of_size[level][size]].insert(address >> shift[size], key, pfn << TLB_PFN_SHIFT | flags);
        return size;
    }

    // The frame behind an address, from the data of an entry of a size.
    u64 pfn(u64 data, u64 address, u32 size) const {
        const u64 pages = 1ULL << (shift[size] - PAGE_SHIFT);
        return (data >> TLB_PFN_SHIFT) + ((address >> PAGE_SHIFT) & (pages - 1));
    }

    // Whether a level holds pages of a size in smaller pieces.
    bool in_pieces(u32 size) const {
        return piece[0][size] != size || (piece[1][size] != size && piece[1][size] != NIL);
    }

    // Drops the translations of one page, whatever their size.
    void drop_page(u64 address, u32 mm, u32 sizes) const;
    void drop_walk_caches(u32 mm) const;
    // Drops those of an address space. sets: those of arrays[L2] that may hold some, a bit each; null: all
    // may. Clears the bits of the sets that are empty then, or of all, if only this address space sets them.
    void drop_mm(u32 mm, u64 *sets = nullptr, bool only = false) const;
};

} // namespace thp
