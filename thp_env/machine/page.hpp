// The record of a frame: struct page and struct folio in one.
#pragma once
#include "types.hpp"

namespace thp {

enum page_flags : u32 {
    PG_buddy = 1U << 0, // free, head of a block of the buddy allocator
    PG_head = 1U << 1,  // head of a folio (also of order 0) that is in use
    PG_anon = 1U << 2,
    PG_anon_exclusive = 1U << 3, // include/linux/page-flags.h: PG_anon_exclusive
    PG_swapbacked = 1U << 4,
    PG_lru = 1U << 5,
    PG_mlocked = 1U << 6,
    PG_dirty = 1U << 7,
    PG_partially_mapped = 1U << 8,
    PG_table = 1U << 9,
    PG_active = 1U << 10,
    PG_swapcache = 1U << 11,
    PG_readahead = 1U << 12,
    PG_referenced = 1U << 13, // used since it was last looked at
    PG_workingset = 1U << 14, // was active before
    PG_charged = 1U << 15,    // to the control group: folio->memcg_data
    PG_file = 1U << 16,       // of the page cache
    PG_pool = 1U << 19,       // a 64K block of the reserve, free or in use
    PG_lent = 1U << 20,       // a 64K folio that the buddy allocator lent to the reserve's users
    PG_double_map = 1U << 21,
    PG_slab = 1U << 17,      // held by the rest of the kernel, which uses it in place: cannot move
    PG_filecache = 1U << 18, // held by somebody else's page cache: can move
    PG_zsmalloc = 1U << 22,  // part of a zspage, which holds compressed pages: can move
};

// struct page and struct folio in one. Fields below the line mean something in the head page only.
struct page {
    u32 flags;
    i32 refcount;
    i32 mapcount; // PTE mappings of this page
    u8 order;     // of the folio (head) or of the free block (buddy)
    u8 tails;     // head of a 2M folio: whether the records of the other pages were written to (PTE mappings)
    u16 tail;     // distance to the head page; not in 2M folios: see page_head()
    u32 next, prev; // buddy free list
    // ------------
    u32 anon_vma;
    i32 large_mapcount;  // PTE mappings of all pages + PMD mappings
    u16 entire_mapcount; // PMD mappings
    u16 nr_pages_mapped; // pages with a PTE mapping; ENTIRELY_MAPPED is added while a PMD maps it
    u16 mm_id[2];        // two owners, and how many mappings each has (R27)
    u64 index;           // page offset inside the anon_vma
    u32 deferred_next;
    union {
        u32 deferred_prev;
        u32 swap; // the slot of a page in the swap cache: always order 0, so never on the deferred list
    };
    u16 mm_id_mapcount[2];
    u32 pincount; // long-term pins of any page of the folio (FOLL_LONGTERM)
};

// The frames' records. The first of each page block lie together in a table of their own: 2M folios, which
// use no other record until they are mapped by PTEs, then need little of the host's memory and caches.
struct page_records {
    page *records, *block_heads;
    page &operator[](u32 pfn) const {
        return pfn % PAGEBLOCK_NR_PAGES ? records[pfn] : block_heads[pfn >> PAGEBLOCK_ORDER];
    }
    const page &block_head(u32 pfn) const { return block_heads[pfn >> PAGEBLOCK_ORDER]; }
    void clear(u32 pfn, u32 nr) const {
        for (u32 i = pfn; i < pfn + nr; ++i) (*this)[i] = page{};
    }
};

// One byte a frame. 0 = all zero, 1-99 = compresses to that percentage of its size, 100 = random data; and
// whether anybody accessed the 4K page since it was allocated: the truth, not an accessed bit.
constexpr u8 CONTENT_MASK = 0x7f, CONTENT_TOUCHED = 0x80;

constexpr u32 ENTIRELY_MAPPED = 1U << 14;

} // namespace thp
