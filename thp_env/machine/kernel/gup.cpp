#include "gup.hpp"
#include "madvise.hpp"
#include "mmap.hpp"
#include "page_alloc.hpp"
#include "page_table.hpp"
#include <cerrno>

namespace thp {

namespace {

void put_pins(machine &m, u32 from, u32 process) {
    arena_array &t = m.h->arrays[ARRAY_pins];
    u32 length = from;
    for (u32 i = from; i < t.used; ++i) {
        m.host.work();
        const pin p = m.pins[i];
        if (p.process != process) {
            m.pins[length++] = p;
            continue;
        }
        const u32 head = page_head(m, p.pfn);
        --m.pages[head].pincount;
        folio_put(m, head, 1);
    }
    t.used = length;
}

// fast: every page of the range up to here was there already, so that no lock is taken (gup_fast).
int pin_page(machine &m, u32 mm, u64 address, u32 process, bool *fast) {
    m.host.work();
    arena_array &t = m.h->arrays[ARRAY_pins];
    const u32 v = vma_lookup(m, mm, address);
    if (v == NIL || !(m.vmas[v].vm_flags & VM_WRITE)) return -EFAULT; // check_vma_flags
    const u64 before = follow_entry(m, mm, address);
    *fast = *fast && pte_present(before) && (before & PTE_RW);
    if (*fast) {
        m.pages[page_head(m, pte_pfn(before))].flags |= PG_referenced;
    } else if (int error = populate(m, mm, address, true)) {
        return error;
    }
    if (t.used == t.capacity) return -ENOMEM;
    const u64 entry = follow_entry(m, mm, address);
    const u32 pfn = pte_pfn(entry) + (entry & PTE_PSE ? pte_index(address) : 0);
    const u32 head = page_head(m, pfn);
    folio_get(m, head, 1);
    ++m.pages[head].pincount;
    m.pins[t.used++] = {pfn, process};
    return 0;
}

} // namespace

int pin_range(machine &m, u32 mm, u64 start, u64 end, u32 process) {
    const u32 before = m.h->arrays[ARRAY_pins].used;
    int error = 0;
    bool fast = true;
    for (u64 at = start; at < end && !error; at += PAGE_SIZE) error = pin_page(m, mm, at, process, &fast);
    if (error) put_pins(m, before, process); // all or nothing
    return error;
}

void unpin(machine &m, u32 process) { put_pins(m, 0, process); }

} // namespace thp
