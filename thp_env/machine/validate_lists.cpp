// The lists that folios stand on, and the counts of them.
#include "kernel/contpte.hpp"
#include "kernel/lru.hpp"
#include "kernel/page_alloc.hpp"
#include "validate.hpp"

namespace thp {

namespace {

struct list_scan : report {
    machine &m;
    u32 frames;

    explicit list_scan(machine &state) : m(state), frames(m.h->arrays[ARRAY_pages].used) {}

    void deferred_list() {
        u32 n = 0, before = NIL;
        for (u32 head = m.h->deferred_head; head != NIL && n <= m.h->deferred_len; ++n) {
            if (head >= frames) return expect(false, "queued folio beyond memory", head);
            const page &f = m.pages[head];
            expect((f.flags & PG_head) && f.order > 1, "queued for splitting, but no large folio", head);
            expect((f.flags & PG_partially_mapped) || f.order == PMD_ORDER, "queued without reason",
                   head); // R22
            expect(f.deferred_prev == before, "deferred list broken", head);
            before = head;
            head = f.deferred_next;
        }
        expect_equal(m.h->deferred_len, n, "deferred_len");
        expect(m.h->deferred_tail == before, "end of the deferred list", before);
        u32 flagged = 0, queued = 0;
        for (u32 pfn = 0; pfn < frames; ++pfn) flagged += (m.pages[pfn].flags & PG_partially_mapped) != 0;
        for (u32 head = m.h->deferred_head; head != NIL && queued <= n; head = m.pages[head].deferred_next) {
            flagged -= (m.pages[head].flags & PG_partially_mapped) != 0;
            ++queued;
        }
        expect_equal(flagged, 0, "partially mapped folios that are not queued");
    }

    // Every folio is on the list that its flags name, or waits in a batch; the group has paid for each once.
    void lru() {
        u64 listed = 0, charged = m.h->memcg_stock, on_lru = 0;
        for (u32 index = 0; index < NR_LRU_LISTS; ++index) {
            const lru_list &list = m.h->lru[index];
            u64 pages = 0;
            u32 before = NIL;
            for (u32 head = list.head; head != NIL && pages <= list.nr_pages; head = m.pages[head].next) {
                if (head >= frames) return expect(false, "LRU folio beyond memory", head);
                const u32 flags = m.pages[head].flags;
                const u32 own = folio_lru_list(m, head);
                expect((flags & PG_lru) && own == index && m.pages[head].prev == before, "LRU list broken",
                       head);
                pages += folio_nr_pages(m, head);
                before = head;
                ++listed;
            }
            expect(list.tail == before, "end of an LRU list", index);
            expect_equal(list.nr_pages, pages, "nr_pages of LRU list " + std::to_string(index));
        }
        for (u32 pfn = 0; pfn < frames; ++pfn) {
            if (!(m.pages[pfn].flags & PG_head)) continue;
            on_lru += (m.pages[pfn].flags & PG_lru) != 0;
            charged += m.pages[pfn].flags & PG_charged ? folio_nr_pages(m, pfn) : 0;
        }
        expect_equal(on_lru, listed, "folios on LRU lists");
        expect_equal(m.h->memcg_usage, charged, "pages charged to the control group");
    }

    // The reserve of 64K folios: every block of it is free, in use or lost.
    void pool() {
        u32 n = 0;
        for (u32 head = m.h->pool_head; head != NIL && n <= m.h->config.pool_blocks;
             head = m.pages[head].next) {
            expect(m.pages[head].flags == PG_pool, "reserved block without its mark", head);
            ++n;
        }
        expect_equal(m.h->vm[VM_chp_pool_count], n, "chp_pool_count");
        u32 lent = 0;
        for (u32 pfn = 0; pfn < frames; ++pfn) {
            const u32 flags = m.pages[pfn].flags;
            n += (flags & PG_pool) && (flags & PG_head);
            lent += (flags & PG_lent) != 0;
        }
        expect_equal(m.h->config.pool_blocks, n + m.h->pool_lost, "blocks of the reserve");
        expect_equal(m.h->pool_lent, lent, "lent 64K folios");
    }
};

} // namespace

std::string validate_lists(machine &m) {
    list_scan s(m);
    s.deferred_list();
    s.lru();
    s.pool();
    return s.broken;
}

} // namespace thp
