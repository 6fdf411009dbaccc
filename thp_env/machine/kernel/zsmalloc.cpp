#include "zsmalloc.hpp"
#include "page_alloc.hpp"

namespace thp {

namespace {

// A class's frames are one list: objects lie as close as zs_compact() leaves them.
void list_add(machine &m, u32 cls, u32 pfn) {
    zs_class &c = m.h->zs[cls];
    page &p = m.pages[pfn];
    p.flags = PG_zsmalloc;
    p.refcount = 1;
    p.index = cls;
    p.next = c.head;
    p.prev = NIL;
    if (c.head != NIL) m.pages[c.head].prev = pfn;
    c.head = pfn;
    ++c.pages;
    m.contents[pfn] = CONTENT_TOUCHED; // nobody waits for a first access
    mod_memory(m, VM_nr_zspages, 1);
    mod_memory(m, VM_nr_resident, 1);
}

void free_frame(machine &m, u32 cls) {
    zs_class &c = m.h->zs[cls];
    const u32 pfn = c.head;
    c.head = m.pages[pfn].next;
    if (c.head != NIL) m.pages[c.head].prev = NIL;
    --c.pages;
    mod_memory(m, VM_nr_zspages, -1);
    mod_memory(m, VM_nr_resident, -1);
    free_pages(m, pfn, 0);
}

// alloc_zspage: whoever reclaims may use what others leave free.
bool alloc_zspage(machine &m, u32 cls) {
    for (u32 i = 0; i < ZS_POOL.classes[cls].pages_per_zspage; ++i) {
        const u32 pfn = alloc_pages(m, 0, MIGRATE_MOVABLE, GFP_ATOMIC);
        if (pfn == NIL) {
            while (i-- > 0) free_frame(m, cls);
            return false;
        }
        list_add(m, cls, pfn);
    }
    return true;
}

u64 room(const machine &m, u32 cls) {
    return u64{m.h->zs[cls].pages} / ZS_POOL.classes[cls].pages_per_zspage *
           ZS_POOL.classes[cls].objs_per_zspage;
}

bool zs_malloc(machine &m, u32 cls) {
    if (m.h->zs[cls].objects == room(m, cls) && !alloc_zspage(m, cls)) return false;
    ++m.h->zs[cls].objects;
    return true;
}

void zs_free(machine &m, u32 cls) {
    const size_class &sizes = ZS_POOL.classes[cls];
    --m.h->zs[cls].objects;
    if (m.h->zs[cls].objects + sizes.objs_per_zspage > room(m, cls)) return;
    for (u32 i = 0; i < sizes.pages_per_zspage; ++i) free_frame(m, cls);
}

} // namespace

bool zram_write_page(machine &m, u32 slot, u8 content) {
    if (content && !zs_malloc(m, ZS_POOL.of_content[content])) return false; // page_same_filled: content 0
    zram_free_page(m, slot);
    m.swap[slot].stored = content;
    return true;
}

void zram_free_page(machine &m, u32 slot) {
    u8 &stored = m.swap[slot].stored;
    if (stored) zs_free(m, ZS_POOL.of_content[stored]);
    stored = 0;
}

void zs_page_migrate(machine &m, u32 to) {
    const page &p = m.pages[to];
    (p.prev != NIL ? m.pages[p.prev].next : m.h->zs[p.index].head) = to;
    if (p.next != NIL) m.pages[p.next].prev = to;
}

} // namespace thp
