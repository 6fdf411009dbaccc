#include "gup.hpp"
#include "madvise.hpp"
#include "page_alloc.hpp"
#include "page_table.hpp"
#include <cerrno>

namespace thp {

int pin_range(machine &m, u32 mm, u64 start, u64 end, u32 process) {
    table_header &t = m.h->tables[TABLE_pins];
    for (u64 at = start; at < end; at += PAGE_SIZE) {
        if (int error = populate(m, mm, at, true)) return error;
        if (t.used == t.capacity) return -ENOMEM;
        const u64 pmd = *pmd_offset(m, mm, at);
        const u32 pfn = pmd_trans_huge(pmd) ? pte_pfn(pmd) + pte_index(at) : pte_pfn(*pte_offset(m, pmd, at));
        const u32 head = page_head(m, pfn);
        folio_get(m, head, 1);
        ++m.pages[head].pincount;
        m.pins[t.used++] = {pfn, process};
    }
    return 0;
}

void unpin(machine &m, u32 process) {
    table_header &t = m.h->tables[TABLE_pins];
    u32 kept = 0;
    for (u32 i = 0; i < t.used; ++i) {
        const pin p = m.pins[i];
        if (p.process != process) {
            m.pins[kept++] = p;
            continue;
        }
        const u32 head = page_head(m, p.pfn);
        --m.pages[head].pincount;
        folio_put(m, head, 1);
    }
    t.used = kept;
}

} // namespace thp
