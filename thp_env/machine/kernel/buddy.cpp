#include "buddy.hpp"
#include <algorithm>
#include <bit>

namespace thp {

namespace {

constexpr u64 MAX_BLOCK = 1ULL << MAX_PAGE_ORDER;

// Where an allocation looks when its own lists are empty.
constexpr u32 fallbacks[MIGRATE_PCPTYPES][MIGRATE_PCPTYPES - 1] = {
    {MIGRATE_RECLAIMABLE, MIGRATE_MOVABLE},   // UNMOVABLE
    {MIGRATE_RECLAIMABLE, MIGRATE_UNMOVABLE}, // MOVABLE
    {MIGRATE_UNMOVABLE, MIGRATE_MOVABLE},     // RECLAIMABLE
};

void add_to_free_list(machine &m, u32 pfn, u32 order, u32 type, bool tail) {
    page &p = m.pages[pfn];
    zone_struct &z = m.h->zone;
    free_area &area = z.area[order];
    p.flags = PG_buddy;
    p.order = static_cast<u8>(order);
    p.prev = tail ? area.tail[type] : NIL;
    p.next = tail ? NIL : area.head[type];
    (p.prev != NIL ? m.pages[p.prev].next : area.head[type]) = pfn;
    (p.next != NIL ? m.pages[p.next].prev : area.tail[type]) = pfn;
    if (area.nr_free[type]++ == 0) z.orders[type] |= 1U << order;
}

void del_from_free_list(machine &m, u32 pfn, u32 order, u32 type) {
    page &p = m.pages[pfn];
    zone_struct &z = m.h->zone;
    free_area &area = z.area[order];
    (p.prev != NIL ? m.pages[p.prev].next : area.head[type]) = p.next;
    (p.next != NIL ? m.pages[p.next].prev : area.tail[type]) = p.prev;
    p = page{};
    if (--area.nr_free[type] == 0) z.orders[type] &= ~(1U << order);
}

// Memory beyond the highest frame ever used is free without a record, so that a large idle machine is small.
// It is movable, as all memory is at boot (memmap_init_range).
bool init_next_block(machine &m) {
    constexpr u64 POPULATED = 1U << 16; // frames whose bytes are asked for at once
    arena_array &t = m.h->arrays[ARRAY_pages];
    const u64 remaining = t.capacity - t.used;
    if (remaining == 0) return false;
    m.host.work(64);
    u32 pfn = t.used;
    t.used += static_cast<u32>(std::min(remaining, MAX_BLOCK));
    arena_array &contents = m.h->arrays[ARRAY_contents];
    contents.used = t.used;
    if (pfn % POPULATED == 0) m.populate(contents.offset + pfn, std::min(remaining, POPULATED));
    arena_array &blocks = m.h->arrays[ARRAY_pageblocks];
    for (; blocks.used << PAGEBLOCK_ORDER < t.used; ++blocks.used)
        m.pageblocks[blocks.used] = MIGRATE_MOVABLE;
    m.h->arrays[ARRAY_block_heads].used = blocks.used;
    for (u32 order = MAX_PAGE_ORDER; pfn < t.used; --order) {
        if (t.used - pfn < (1U << order)) continue;
        add_to_free_list(m, pfn, order, MIGRATE_MOVABLE, false);
        pfn += 1U << order;
        if (pfn == t.used) break;
    }
    return true;
}

// The free block at a frame's buddy, or NIL (find_buddy_page_pfn).
u32 find_buddy(const machine &m, u32 pfn, u32 order) {
    const u32 buddy = pfn ^ (1U << order);
    if (buddy + (1U << order) > m.h->arrays[ARRAY_pages].used) return NIL;
    const page &b = m.pages[buddy];
    return (b.flags & PG_buddy) && b.order == order ? buddy : NIL;
}

// The upper halves go back.
void expand(machine &m, u32 pfn, u32 low, u32 high, u32 type) {
    while (high > low) {
        --high;
        add_to_free_list(m, pfn + (1U << high), high, type, false);
    }
}

u32 take(machine &m, u32 pfn, u32 order, u32 current, u32 type) {
    del_from_free_list(m, pfn, current, type);
    expand(m, pfn, order, current, type);
    return pfn;
}

u32 rmqueue_smallest(machine &m, u32 order, u32 type) {
    for (;;) {
        const u32 orders = m.h->zone.orders[type] >> order;
        if (orders) {
            const u32 current = order + static_cast<u32>(std::countr_zero(orders));
            return take(m, m.h->zone.area[current].head[type], order, current, type);
        }
        if (type != MIGRATE_MOVABLE || !init_next_block(m)) return NIL;
    }
}

u32 find_suitable_fallback(const machine &m, u32 order, u32 type) {
    for (const u32 other : fallbacks[type]) {
        if (m.h->zone.area[order].nr_free[other]) return other;
    }
    return NIL;
}

// should_try_claim_block: movable pages in other blocks do no lasting harm, so small ones are not worth one.
bool should_try_claim_block(u32 order, u32 type) {
    return order >= PAGEBLOCK_ORDER / 2 || type != MIGRATE_MOVABLE;
}

struct block_census {
    u32 free, movable;
};

block_census count_block(const machine &m, u32 start) {
    block_census n{0, 0};
    for (u32 pfn = start; pfn < start + PAGEBLOCK_NR_PAGES;) {
        const page &p = m.pages[pfn];
        if (p.flags & PG_buddy) {
            n.free += 1U << p.order;
            pfn += 1U << p.order;
            continue;
        }
        n.movable += (m.pages[page_head(m, pfn)].flags & (PG_lru | PG_filecache)) != 0;
        ++pfn;
    }
    return n;
}

void move_freepages_block(machine &m, u32 start, u32 from, u32 to) {
    for (u32 pfn = start; pfn < start + PAGEBLOCK_NR_PAGES;) {
        const page &p = m.pages[pfn];
        if (!(p.flags & PG_buddy)) {
            ++pfn;
            continue;
        }
        const u32 order = p.order;
        del_from_free_list(m, pfn, order, from);
        add_to_free_list(m, pfn, order, to, true);
        pfn += 1U << order;
    }
    set_pageblock_migratetype(m, start, to);
}

// Takes over the whole page block if it is free, or if half of it is free or of a type that fits.
u32 try_to_claim_block(machine &m, u32 pfn, u32 current, u32 order, u32 type, u32 block_type) {
    if (current >= PAGEBLOCK_ORDER) {
        del_from_free_list(m, pfn, current, block_type);
        for (u32 at = pfn; at < pfn + (1U << current); at += PAGEBLOCK_NR_PAGES)
            set_pageblock_migratetype(m, at, type);
        expand(m, pfn, order, current, type);
        m.count(VM_pageblock_claimed, 1U << (current - PAGEBLOCK_ORDER));
        return pfn;
    }
    const auto start = static_cast<u32>(align_down(pfn, PAGEBLOCK_NR_PAGES));
    if (start + PAGEBLOCK_NR_PAGES > m.h->arrays[ARRAY_pages].capacity)
        return NIL; // not all of it in the zone
    const block_census n = count_block(m, start);
    u32 alike = 0;
    if (type == MIGRATE_MOVABLE) {
        alike = n.movable;
    } else if (block_type == MIGRATE_MOVABLE) {
        alike = PAGEBLOCK_NR_PAGES - (n.free + n.movable);
    }
    if (n.free + alike < PAGEBLOCK_NR_PAGES / 2) return NIL;
    move_freepages_block(m, start, block_type, type);
    m.count(VM_pageblock_claimed);
    return rmqueue_smallest(m, order, type);
}

// The largest block of another type, so that little is mixed for long.
u32 rmqueue_claim(machine &m, u32 order, u32 type) {
    for (u32 current = MAX_PAGE_ORDER + 1; current-- > order;) {
        if (!should_try_claim_block(current, type)) break;
        u32 other = find_suitable_fallback(m, current, type);
        if (other == NIL && current == MAX_PAGE_ORDER && type != MIGRATE_MOVABLE && init_next_block(m))
            other = find_suitable_fallback(m, current, type);
        if (other == NIL) continue;
        const u32 pfn =
            try_to_claim_block(m, m.h->zone.area[current].head[other], current, order, type, other);
        if (pfn != NIL) return pfn;
    }
    return NIL;
}

// The smallest block of another type, whose page block keeps its type.
u32 rmqueue_steal(machine &m, u32 order, u32 type) {
    for (u32 current = order; current <= MAX_PAGE_ORDER; ++current) {
        const u32 other = find_suitable_fallback(m, current, type);
        if (other == NIL) continue;
        m.count(VM_pageblock_stolen_from);
        return take(m, m.h->zone.area[current].head[other], order, current, other);
    }
    return NIL;
}

} // namespace

void free_area_init(machine &m) {
    zone_struct &z = m.h->zone;
    for (free_area &area : z.area) {
        for (u32 type = 0; type < MIGRATE_PCPTYPES; ++type) area.head[type] = area.tail[type] = NIL;
    }
    z.nr_free = m.h->arrays[ARRAY_pages].capacity;
    z.migrate_pfn = z.free_pfn = NIL;
}

u32 rmqueue(machine &m, u32 order, u32 type) {
    u32 pfn = rmqueue_smallest(m, order, type);
    if (pfn == NIL) pfn = rmqueue_claim(m, order, type);
    if (pfn == NIL) pfn = rmqueue_steal(m, order, type);
    if (pfn != NIL) m.h->zone.nr_free -= 1U << order;
    return pfn;
}

void free_one_page(machine &m, u32 pfn, u32 order) {
    const u32 type = get_pageblock_migratetype(m, pfn);
    m.h->zone.nr_free += 1U << order;
    for (; order < MAX_PAGE_ORDER; ++order) {
        const u32 buddy = find_buddy(m, pfn, order);
        if (buddy == NIL) break;
        del_from_free_list(m, buddy, order, get_pageblock_migratetype(m, buddy));
        if (order >= PAGEBLOCK_ORDER) set_pageblock_migratetype(m, buddy, type);
        pfn &= ~(1U << order);
    }
    // buddy_merge_likely: the next larger block is nearly whole, so this part is used last.
    const bool tail = order < MAX_PAGE_ORDER - 1 && find_buddy(m, pfn & ~(1U << order), order + 1) != NIL;
    add_to_free_list(m, pfn, order, type, tail);
}

u32 isolate_free_page(machine &m, u32 pfn) {
    const u32 order = m.pages[pfn].order;
    del_from_free_list(m, pfn, order, get_pageblock_migratetype(m, pfn));
    m.h->zone.nr_free -= 1U << order;
    return order;
}

u32 find_buddy_head(const machine &m, u32 pfn) {
    if (pfn >= m.h->arrays[ARRAY_pages].used) return NIL;
    for (u32 order = 0; order <= MAX_PAGE_ORDER; ++order) {
        const u32 head = pfn & ~((1U << order) - 1);
        if ((m.pages[head].flags & PG_buddy) && m.pages[head].order >= order) return head;
    }
    return NIL;
}

bool take_page_off_buddy(machine &m, u32 pfn) {
    u32 head = find_buddy_head(m, pfn);
    if (head == NIL) return false;
    const u32 type = get_pageblock_migratetype(m, head);
    for (u32 order = isolate_free_page(m, head); order > 0;) { // the half without the page goes back
        --order;
        const u32 upper = head + (1U << order);
        const bool in_upper = pfn >= upper;
        add_to_free_list(m, in_upper ? head : upper, order, type, false);
        m.h->zone.nr_free += 1U << order;
        if (in_upper) head = upper;
    }
    return true;
}

void init_all_blocks(machine &m) {
    while (init_next_block(m)) {
    }
}

} // namespace thp
