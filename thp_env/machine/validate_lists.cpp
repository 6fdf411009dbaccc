// The lists that folios stand on, and the counts of them.
#include "kernel/contpte.hpp"
#include "kernel/lru.hpp"
#include "kernel/memcontrol.hpp"
#include "kernel/page_alloc.hpp"
#include "validate.hpp"

namespace thp {

namespace {

struct list_scan : report {
    machine &m;
    u32 frames, flagged = 0, linked = 0; // linked: folios with neighbours on a deferred list
    u64 listed = 0;

    explicit list_scan(machine &state) : m(state), frames(m.h->arrays[ARRAY_pages].used) {}

    static bool has_neighbours(const page &f) {
        return (f.flags & PG_head) && f.order > 1 && (f.deferred_next != NIL || f.deferred_prev != NIL);
    }

    void deferred_list(u32 memcg) {
        const mem_cgroup &g = m.memcgs[memcg];
        u32 n = 0, before = NIL;
        for (u32 head = g.deferred_head; head != NIL && n <= g.deferred_len; ++n) {
            if (head >= frames) return expect(false, "queued folio beyond memory", head);
            const page &f = m.pages[head];
            expect((f.flags & PG_head) && f.order > 1 && folio_memcg(m, head) == memcg,
                   "queued for splitting, but no large folio of the group", head);
            expect((f.flags & PG_partially_mapped) || f.order == PMD_ORDER, "queued without reason",
                   head); // R22
            expect(f.deferred_prev == before, "deferred list broken", head);
            flagged -= (f.flags & PG_partially_mapped) != 0;
            linked -= has_neighbours(f);
            before = head;
            head = f.deferred_next;
        }
        expect_equal(g.deferred_len, n, "deferred_len");
        expect(g.deferred_tail == before, "end of the deferred list", before);
    }

    void deferred_lists() {
        for (u32 pfn = 0; pfn < frames; ++pfn) {
            flagged += (m.pages[pfn].flags & PG_partially_mapped) != 0;
            linked += has_neighbours(m.pages[pfn]);
        }
        for (u32 memcg = 0; memcg < nr_memcgs(m) && broken.empty(); ++memcg) deferred_list(memcg);
        expect_equal(flagged, 0, "partially mapped folios that are not queued");
        expect_equal(linked, 0, "neighbours on no deferred list");
    }

    // Every folio is on the list that its flags name, or waits in a batch; its group has paid for it once.
    void lru(u32 memcg) {
        for (u32 index = 0; index < NR_LRU_LISTS; ++index) {
            const lru_list &list = m.memcgs[memcg].lru[index];
            u64 pages = 0;
            u32 before = NIL;
            for (u32 head = list.head; head != NIL && pages <= list.nr_pages; head = m.pages[head].next) {
                if (head >= frames) return expect(false, "LRU folio beyond memory", head);
                const u32 flags = m.pages[head].flags;
                const u32 own = folio_lru_list(m, head);
                expect((flags & PG_lru) && own == index && folio_memcg(m, head) == memcg &&
                           m.pages[head].prev == before,
                       "LRU list broken", head);
                pages += folio_nr_pages(m, head);
                before = head;
                ++listed;
            }
            expect(list.tail == before, "end of an LRU list", index);
            expect_equal(list.nr_pages, pages, "nr_pages of LRU list " + std::to_string(index));
        }
    }

    void lrus() {
        for (u32 memcg = 0; memcg < nr_memcgs(m) && broken.empty(); ++memcg) lru(memcg);
        u64 on_lru = 0, charged[MAX_MEMCGS] = {}, swapped[MAX_MEMCGS] = {};
        for (u32 pfn = 0; pfn < frames; ++pfn) {
            if (!(m.pages[pfn].flags & PG_head)) continue;
            on_lru += (m.pages[pfn].flags & PG_lru) != 0;
            charged[folio_memcg(m, pfn)] += m.pages[pfn].flags & PG_charged ? folio_nr_pages(m, pfn) : 0;
        }
        expect_equal(on_lru, listed, "folios on LRU lists");
        for (u32 i = 0; i < m.h->arrays[ARRAY_swap].used; ++i) {
            if (m.swap[i].memcg) ++swapped[m.swap[i].memcg - 1];
        }
        for (u32 memcg = 0; memcg < nr_memcgs(m); ++memcg) {
            const mem_cgroup &g = m.memcgs[memcg];
            expect_equal(g.usage, g.stock + charged[memcg],
                         "pages charged to control group " + std::to_string(memcg));
            expect_equal(g.swap, swapped[memcg], "slots charged to control group " + std::to_string(memcg));
        }
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
    s.deferred_lists();
    s.lrus();
    s.pool();
    return s.broken;
}

} // namespace thp
