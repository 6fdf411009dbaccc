// mm/page_alloc.c: the free lists, by order and migrate type, and what one type takes from another.
#pragma once
#include "../state.hpp"

namespace thp {

void free_area_init(machine &m);
// Takes a free block of 2^order frames, at best one of the type; NIL when there is none.
u32 rmqueue(machine &m, u32 order, u32 type);
// Puts frames back, merging them with their free buddies.
void free_one_page(machine &m, u32 pfn, u32 order);

// One byte a page block: its migrate type, and whether compaction has looked at it lately.
constexpr u8 PB_migratetype = 3, PB_compact_skip = 1U << 2;
inline u32 get_pageblock_migratetype(const machine &m, u32 pfn) {
    return m.pageblocks[pfn >> PAGEBLOCK_ORDER] & PB_migratetype;
}
inline void set_pageblock_migratetype(machine &m, u32 pfn, u32 type) {
    u8 &block = m.pageblocks[pfn >> PAGEBLOCK_ORDER];
    block = static_cast<u8>((block & ~PB_migratetype) | type);
}
// Takes a free block off its list; returns its order.
u32 isolate_free_page(machine &m, u32 pfn);
// Takes one free frame, breaking up the block that holds it; false when it is not free.
bool take_page_off_buddy(machine &m, u32 pfn);
// The free block that holds a frame, or NIL.
u32 find_buddy_head(const machine &m, u32 pfn);
// Gives all memory its records, as if it had been in use once.
void init_all_blocks(machine &m);

} // namespace thp
