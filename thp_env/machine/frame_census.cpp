#include "frame_census.hpp"
#include "kernel/buddy.hpp"
#include "kernel/zsmalloc.hpp"

namespace thp {

void frame_census::own(u32 pfn, u32 nr, frame_owner who) {
    if (u64{pfn} + nr > owner.size()) return expect(false, "frame beyond memory", pfn);
    for (u32 i = pfn; i < pfn + nr; ++i) {
        expect(owner[i] == OWNER_NONE, "frame with two owners", i);
        owner[i] = who;
    }
}

void frame_census::free_list(u32 order, u32 type) {
    const free_area &area = m.h->zone.area[order];
    u32 n = 0, before = NIL;
    for (u32 pfn = area.head[type]; pfn != NIL && n <= area.nr_free[type]; pfn = m.pages[pfn].next, ++n) {
        if (pfn >= owner.size()) return expect(false, "free block beyond memory", pfn);
        const page &p = m.pages[pfn];
        expect(p.flags == PG_buddy && p.order == order, "free block without its mark", pfn);
        expect(pfn % (1U << order) == 0, "free block out of line", pfn);
        expect(p.prev == before, "free list broken", pfn);
        own(pfn, 1U << order, OWNER_FREE);
        const u32 buddy = pfn ^ (1U << order);
        const bool both = order < MAX_PAGE_ORDER && buddy < owner.size() &&
                          (m.pages[buddy].flags & PG_buddy) && m.pages[buddy].order == order;
        expect(!both, "free buddies that were not merged", pfn);
        for (u32 i = pfn; i < pfn + (1U << order) && i < owner.size(); ++i) {
            expect(m.contents[i] == 0, "free frame that is not clean", i);
            const page &member = m.pages[i];
            expect(i == pfn || member.flags == 0, "free frame with flags", i);
            expect(i == pfn || (member.mapcount == 0 && member.tail == 0), "free frame of a folio", i);
            expect(get_pageblock_migratetype(m, i) == type, "free on the list of another type", i);
        }
        before = pfn;
    }
    const std::string of = " of order " + std::to_string(order) + ", type " + std::to_string(type);
    expect_equal(area.nr_free[type], n, "free blocks" + of);
    expect(area.tail[type] == before, "end of a free list", before);
    expect_equal((m.h->zone.orders[type] >> order) & 1, n > 0, "whether there are free blocks" + of);
}

void frame_census::free_lists() {
    expect_equal(m.h->arrays[ARRAY_pageblocks].used,
                 (owner.size() + PAGEBLOCK_NR_PAGES - 1) >> PAGEBLOCK_ORDER, "page blocks");
    for (u32 type = 0; type < MIGRATE_PCPTYPES; ++type) {
        for (u32 order = 0; order <= MAX_PAGE_ORDER; ++order) free_list(order, type);
    }
    u64 free = m.h->arrays[ARRAY_pages].capacity - owner.size();
    for (const u8 who : owner) free += who == OWNER_FREE;
    expect_equal(m.h->zone.nr_free, free, "nr_free");
}

void frame_census::held() {
    u64 n = 0;
    for (u32 pfn = 0; pfn < owner.size(); ++pfn) {
        const u32 flags = m.pages[pfn].flags;
        if (!(flags & (PG_slab | PG_filecache))) continue;
        expect(flags == PG_slab || flags == PG_filecache, "held frame that is also something else", pfn);
        own(pfn, 1, OWNER_HELD);
        ++n;
    }
    expect_equal(m.h->vm[VM_nr_held], n, "nr_held");
}

void frame_census::zspages() {
    u64 objects[NR_ZS_CLASSES] = {}, all = 0;
    for (u32 slot = 0; slot < m.h->arrays[ARRAY_swap].used; ++slot)
        if (m.swap[slot].stored) ++objects[ZS_POOL.of_content[m.swap[slot].stored]];
    for (u32 cls = 0; cls < NR_ZS_CLASSES; ++cls) {
        const zs_class &c = m.h->zs[cls];
        const size_class &sizes = ZS_POOL.classes[cls];
        const u64 zspages = (objects[cls] + sizes.objs_per_zspage - 1) / sizes.objs_per_zspage;
        const std::string of = " of size class " + std::to_string(sizes.size);
        expect_equal(c.objects, objects[cls], "objects" + of);
        expect_equal(c.pages, zspages * sizes.pages_per_zspage, "pages" + of);
        u32 n = 0, before = NIL;
        for (u32 pfn = c.head; pfn != NIL && n <= c.pages; pfn = m.pages[pfn].next, ++n) {
            if (pfn >= owner.size()) return expect(false, "zspage beyond memory", pfn);
            const page &p = m.pages[pfn];
            expect(p.flags == PG_zsmalloc && p.index == cls && p.prev == before, "list of zspages broken",
                   pfn);
            own(pfn, 1, OWNER_HELD);
            before = pfn;
        }
        expect_equal(c.pages, n, "listed pages" + of);
        all += n;
    }
    expect_equal(m.h->vm[VM_nr_zspages], all, "nr_zspages");
}

} // namespace thp
