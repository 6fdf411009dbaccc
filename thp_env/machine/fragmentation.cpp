#include "fragmentation.hpp"
#include "kernel/buddy.hpp"
#include "kernel/vmstat.hpp"
#include "patterns.hpp"

namespace thp {

namespace {

bool hold(machine &m, u32 pfn, u32 flag) {
    if (!take_page_off_buddy(m, pfn)) return false;
    m.pages[pfn].flags = flag;
    m.pages[pfn].refcount = 1;
    m.contents[pfn] = CONTENT_TOUCHED; // nobody waits for a first access
    m.count(VM_nr_held);
    m.count(VM_pgalloc);
    return true;
}

// The first free page of a block from a random one on.
u32 free_page_of(const machine &m, u32 start, u32 nr, u64 random) {
    for (u32 i = 0; i < nr; ++i) {
        const u32 pfn = start + static_cast<u32>((random + i) % nr);
        if (find_buddy_head(m, pfn) != NIL) return pfn;
    }
    return NIL;
}

} // namespace

int pollute(machine &m, u64 share, u64 key) {
    init_all_blocks(m);
    const u32 blocks = m.h->arrays[ARRAY_pages].used >> PAGEBLOCK_ORDER;
    u64 remaining = (blocks * share + (1U << 15)) >> 16;
    for (u32 i = 0; i < blocks && remaining > 0; ++i) {
        m.host.work(64);
        const auto block = static_cast<u32>(permute(i, blocks, key));
        const u32 pfn = free_page_of(m, block << PAGEBLOCK_ORDER, PAGEBLOCK_NR_PAGES, draw(~key, block));
        if (pfn != NIL && hold(m, pfn, PG_slab)) --remaining;
    }
    return 0;
}

int fragment(machine &m, u32 order, u32 index, u64 key) {
    init_all_blocks(m);
    const u32 blocks = m.h->arrays[ARRAY_pages].used >> order;
    for (u32 i = 0; i < blocks && unusable_free_index(m, order) < index; ++i) {
        m.host.work();
        const auto block = static_cast<u32>(permute(i, blocks, key));
        const u32 start = block << order, head = find_buddy_head(m, start);
        if (head == NIL || m.pages[head].order < order) continue; // not free as a whole
        hold(m, start + static_cast<u32>(draw(~key, block) & ((1U << order) - 1)), PG_filecache);
    }
    return 0;
}

} // namespace thp
