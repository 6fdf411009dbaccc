#include "vmstat.hpp"

namespace thp {

namespace {

// Blocks of each order in the memory that has no record yet (page_alloc.cpp: init_next_block).
u32 unrecorded(const machine &m, u32 order) {
    const arena_array &t = m.h->arrays[ARRAY_pages];
    const u32 remaining = t.capacity - t.used;
    return order == MAX_PAGE_ORDER ? remaining >> MAX_PAGE_ORDER : (remaining >> order) & 1;
}

struct contig_page_info {
    u64 free_pages, blocks_total, blocks_suitable;
};

contig_page_info fill_contig_page_info(const machine &m, u32 suitable_order) {
    contig_page_info info{};
    for (u32 order = 0; order <= MAX_PAGE_ORDER; ++order) {
        const u64 blocks = nr_free_blocks(m, order);
        info.blocks_total += blocks;
        info.free_pages += blocks << order;
        if (order >= suitable_order) info.blocks_suitable += blocks << (order - suitable_order);
    }
    return info;
}

} // namespace

u32 nr_free_blocks(const machine &m, u32 order, u32 migratetype) {
    const u32 idle = migratetype == MIGRATE_MOVABLE ? unrecorded(m, order) : 0;
    return m.h->zone.area[order].nr_free[migratetype] + idle;
}

u32 nr_free_blocks(const machine &m, u32 order) {
    u32 n = 0;
    for (u32 type = 0; type < MIGRATE_PCPTYPES; ++type) n += nr_free_blocks(m, order, type);
    return n;
}

u32 unusable_free_index(const machine &m, u32 order) {
    const contig_page_info info = fill_contig_page_info(m, order);
    if (info.free_pages == 0) return 1000; // no free memory is interpreted as all of it being unusable
    return static_cast<u32>((info.free_pages - (info.blocks_suitable << order)) * 1000 / info.free_pages);
}

i32 fragmentation_index(const machine &m, u32 order) {
    const contig_page_info info = fill_contig_page_info(m, order);
    if (info.blocks_total == 0) return 0;
    if (info.blocks_suitable) return -1000;
    const u64 requested = 1ULL << order;
    return 1000 - static_cast<i32>((1000 + info.free_pages * 1000 / requested) / info.blocks_total);
}

} // namespace thp
