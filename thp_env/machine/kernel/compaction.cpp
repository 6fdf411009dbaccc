#include "compaction.hpp"
#include "huge_memory.hpp"
#include "lru.hpp"
#include "migrate.hpp"
#include "page_alloc.hpp"
#include "vmstat.hpp"
#include <algorithm>
#include <vector>

namespace thp {

namespace {

constexpr u32 COMPACT_CLUSTER_MAX = 32, COMPACT_MAX_DEFER_SHIFT = 6, EXTFRAG_THRESHOLD = 500;

constexpr u32 block_start(u32 pfn, u32 order) { return pfn & ~((1U << order) - 1); }
constexpr u32 block_end(u32 pfn, u32 order) { return block_start(pfn, order) + (1U << order); }

struct compact_control {
    machine &m;
    u32 order;
    migrate_mode mode;
    bool direct;
    u32 zone_end, migrate_pfn = 0, free_pfn = 0;
    bool whole_zone = false, finish_pageblock = false;
    u32 last_migrated = NIL; // the page block that pages were taken from last
    std::vector<u32> migratepages;
    u32 nr_migratepages = 0, nr_freepages = 0;
    std::vector<u32> freepages[MAX_PAGE_ORDER + 1];

    compact_control(machine &state, u32 wanted, migrate_mode how, bool in_allocation)
        : m(state), order(wanted), mode(how), direct(in_allocation),
          zone_end(state.h->arrays[ARRAY_pages].used) {}

    bool all() const { return order == COMPACT_ALL; }

    // compaction_suit_allocation_order
    bool suitable() const {
        if (all()) return true;
        const bool costly = order > PAGE_ALLOC_COSTLY_ORDER;
        const u32 mark = m.h->zone.watermark[costly ? WMARK_LOW : WMARK_MIN] + (2U << order); // compact_gap
        if (!zone_watermark_ok(m, 0, mark)) return false;
        const i32 index = costly ? fragmentation_index(m, order) : -1000;
        return index < 0 || index > static_cast<i32>(EXTFRAG_THRESHOLD);
    }

    bool scanners_met() const { return free_pfn >> PAGEBLOCK_ORDER <= migrate_pfn >> PAGEBLOCK_ORDER; }

    void start() {
        zone_struct &z = m.h->zone;
        migrate_pfn = all() || z.migrate_pfn == NIL ? 0 : z.migrate_pfn;
        free_pfn = all() || z.free_pfn == NIL ? block_start(zone_end - 1, PAGEBLOCK_ORDER) : z.free_pfn;
        whole_zone = migrate_pfn == 0;
    }

    // Each page block is looked at once, until all hints are forgotten; somebody who wants all memory ignores
    // them.
    bool isolation_suitable(u32 pfn) const {
        return all() || !(m.pageblocks[pfn >> PAGEBLOCK_ORDER] & PB_compact_skip);
    }
    void set_pageblock_skip(u32 pfn) const {
        if (!all()) m.pageblocks[pfn >> PAGEBLOCK_ORDER] |= PB_compact_skip;
    }

    bool page_found() const { return !all() && m.h->zone.orders[MIGRATE_MOVABLE] >> order != 0; }

    compact_result finished() {
        if (scanners_met()) {
            m.h->zone.migrate_pfn = m.h->zone.free_pfn = NIL;
            if (direct) m.h->zone.compact_blockskip_flush = 1;
            return whole_zone ? COMPACT_COMPLETE : COMPACT_PARTIAL_SKIPPED;
        }
        // An allocation captures its page at once; a daemon finishes the page block.
        const bool pause = direct || migrate_pfn % PAGEBLOCK_NR_PAGES == 0;
        return pause && page_found() ? COMPACT_SUCCESS : COMPACT_CONTINUE;
    }

    // An order-aligned block that cannot become free as a whole is not worth moving a part of.
    bool skip_on_failure() const { return mode == COMPACT_ASYNC && direct; }

    // isolate_migratepages_block: the movable folios in [migrate_pfn, end), a cluster at a time.
    void isolate_migratepages_block(u32 end) {
        const u32 block = migrate_pfn;
        bool skip_updated = false;
        u32 pfn = migrate_pfn, next_skip = skip_on_failure() ? block_end(pfn, order) : NIL;
        u64 scanned = 0;
        while (pfn < end) {
            if (skip_on_failure() && pfn >= next_skip) {
                if (nr_migratepages) break;
                next_skip = block_end(pfn, order);
            }
            ++scanned;
            const page &p = m.pages[pfn];
            const u32 head = page_head(m, pfn), nr = 1U << p.order;
            if (p.flags & PG_buddy) {
                pfn += nr;
                continue;
            }
            const u32 limit = all() ? PAGEBLOCK_ORDER : order; // skip_isolation_on_order
            const bool movable = head == pfn && p.order < limit && folio_isolatable(m, head);
            // Partially mapped folios are split first (migrate_pages_batch), and looked at again.
            if (movable && (p.flags & PG_partially_mapped) && split_folio(m, head) == 0) continue;
            if (movable && !(p.flags & PG_partially_mapped)) {
                if (!skip_updated && !isolation_suitable(block) && !finish_pageblock) {
                    pfn = end; // somebody else is at it
                    break;
                }
                set_pageblock_skip(block);
                skip_updated = true;
                migratepages.push_back(pfn);
                nr_migratepages += nr;
                pfn += nr;
                if (nr_migratepages >= COMPACT_CLUSTER_MAX && !skip_on_failure() && !finish_pageblock) break;
                continue;
            }
            pfn = (p.flags & PG_head) ? head + nr : pfn + 1;
            if (!skip_on_failure()) continue;
            migratepages.clear();
            nr_migratepages = 0;
            pfn = std::max(pfn, next_skip);
        }
        migrate_pfn = std::min(pfn, end);
        if (migrate_pfn == end && nr_migratepages == 0) {
            set_pageblock_skip(block);
            if (!all() && m.h->zone.migrate_pfn != NIL)
                m.h->zone.migrate_pfn = std::max(m.h->zone.migrate_pfn, end);
        }
        m.count(VM_compact_migrate_scanned, scanned);
        m.spend(TIME_compaction, m.cost().compact_scan * scanned);
    }

    bool isolate_migratepages() {
        for (;;) {
            const u32 end = std::min(block_end(migrate_pfn, PAGEBLOCK_ORDER), zone_end);
            if (end > free_pfn) return false;
            // suitable_migration_source
            const bool unsuited =
                skip_on_failure() && get_pageblock_migratetype(m, migrate_pfn) != MIGRATE_MOVABLE;
            const bool skip = migrate_pfn % PAGEBLOCK_NR_PAGES == 0 && !isolation_suitable(migrate_pfn);
            if (skip || unsuited) {
                migrate_pfn = end;
            } else {
                isolate_migratepages_block(end);
            }
            if (nr_migratepages || finished() != COMPACT_CONTINUE) return nr_migratepages > 0;
        }
    }

    // isolate_freepages: whole free blocks, from the end of memory downwards, until there are enough.
    void isolate_freepages() {
        u64 scanned = 0;
        while (nr_freepages < nr_migratepages && !scanners_met()) {
            const u32 start = free_pfn, end = std::min(start + PAGEBLOCK_NR_PAGES, zone_end);
            const page &first = m.pages[start];
            const bool whole = (first.flags & PG_buddy) && first.order >= PAGEBLOCK_ORDER;
            bool enough = false;
            if (!whole && isolation_suitable(start) &&
                get_pageblock_migratetype(m, start) == MIGRATE_MOVABLE) {
                for (u32 pfn = start; pfn < end && !enough;) {
                    ++scanned;
                    const page &p = m.pages[pfn];
                    if (!(p.flags & PG_buddy)) {
                        ++pfn;
                        continue;
                    }
                    const u32 size = 1U << p.order;
                    if (!zone_watermark_ok(m, 0, m.h->zone.watermark[WMARK_MIN] + size)) {
                        enough = true;
                        break;
                    }
                    freepages[isolate_free_page(m, pfn)].push_back(pfn);
                    nr_freepages += size;
                    pfn += size;
                    enough = nr_freepages >= nr_migratepages;
                }
                if (!enough) set_pageblock_skip(start);
            }
            if (enough) break; // the block is looked at again
            if (start == 0) break;
            free_pfn = start - PAGEBLOCK_NR_PAGES;
        }
        m.count(VM_compact_free_scanned, scanned);
        m.spend(TIME_compaction, m.cost().compact_scan * scanned);
    }

    // compaction_alloc: the smallest isolated block that is large enough.
    u32 take(u32 order) {
        for (u32 round = 0; round < 2; ++round) {
            for (u32 current = order; current <= MAX_PAGE_ORDER; ++current) {
                if (freepages[current].empty()) continue;
                const u32 pfn = freepages[current].back();
                freepages[current].pop_back();
                while (current > order) {
                    --current;
                    freepages[current].push_back(pfn + (1U << current));
                }
                nr_freepages -= 1U << order;
                return pfn;
            }
            if (round == 0) isolate_freepages();
        }
        return NIL;
    }

    // migrate_pages: false when frames to move to have run out.
    bool migrate() {
        bool room = true;
        for (const u32 head : migratepages) {
            const u32 folio_order = m.pages[head].order, nr = 1U << folio_order;
            const u32 to = room ? take(folio_order) : NIL;
            if (to == NIL) {
                room = room && folio_order > 0; // a large folio may fail where small ones still fit
                m.count(VM_pgmigrate_fail, nr);
            } else {
                migrate_folio(m, head, to);
            }
            nr_migratepages -= nr;
        }
        migratepages.clear();
        nr_migratepages = 0;
        return room;
    }

    void stop() {
        zone_struct &z = m.h->zone;
        u32 highest = 0;
        for (u32 o = 0; o <= MAX_PAGE_ORDER; ++o) {
            for (const u32 pfn : freepages[o]) {
                highest = std::max(highest, pfn);
                free_one_page(m, pfn, o);
            }
            freepages[o].clear();
        }
        if (all() || scanners_met()) return;
        if (z.migrate_pfn == NIL) z.migrate_pfn = 0;
        z.free_pfn = std::max(free_pfn, block_start(highest, PAGEBLOCK_ORDER));
    }
};

compact_result compact_zone(machine &m, u32 order, migrate_mode mode, bool direct) {
    compact_control cc(m, order, mode, direct);
    if (cc.page_found()) return COMPACT_SUCCESS;
    if (!cc.suitable()) return COMPACT_SKIPPED;
    lru_add_drain(m); // what waits in a batch could not be isolated
    cc.start();
    compact_result result = cc.finished();
    while (result == COMPACT_CONTINUE) {
        const u32 block = block_start(cc.migrate_pfn, PAGEBLOCK_ORDER);
        cc.finish_pageblock = cc.last_migrated == block;
        if (!cc.isolate_migratepages()) {
            if (cc.page_found()) break;
            cc.migrate_pfn = cc.free_pfn;
        } else {
            cc.last_migrated = block_start(cc.migrate_pfn - 1, PAGEBLOCK_ORDER);
            const u64 failed = m.h->vm[VM_pgmigrate_fail];
            const bool room = cc.migrate();
            if (!room && !cc.scanners_met()) {
                result = COMPACT_CONTENDED;
                break;
            }
            if (cc.skip_on_failure() && m.h->vm[VM_pgmigrate_fail] != failed)
                cc.migrate_pfn = block_end(cc.migrate_pfn - 1, order);
        }
        result = cc.finished();
    }
    cc.stop();
    if (cc.page_found()) result = COMPACT_SUCCESS;
    return result;
}

// __reset_isolation_suitable
void forget_skips(machine &m) {
    zone_struct &z = m.h->zone;
    z.migrate_pfn = z.free_pfn = NIL;
    z.compact_blockskip_flush = 0;
    for (u32 i = 0; i < m.h->arrays[ARRAY_pageblocks].used; ++i)
        m.pageblocks[i] &= static_cast<u8>(~PB_compact_skip);
}

u32 defer_limit(const zone_struct &z) { return 1U << z.compact_defer_shift; }

// Whether compaction for this order has failed too often to be tried now.
bool compaction_deferred(zone_struct &z, u32 order) {
    if (z.compact_defer_shift == 0 || order < z.compact_order_failed) return false;
    if (++z.compact_considered < defer_limit(z)) return true;
    z.compact_considered = defer_limit(z);
    return false;
}

void defer_compaction(zone_struct &z, u32 order) {
    z.compact_considered = 0;
    z.compact_defer_shift = std::min(z.compact_defer_shift + 1, COMPACT_MAX_DEFER_SHIFT);
    z.compact_order_failed = std::min(z.compact_order_failed, order);
}

void compaction_defer_reset(zone_struct &z, u32 order, bool allocated) {
    if (allocated) z.compact_considered = z.compact_defer_shift = 0;
    z.compact_order_failed = std::max(z.compact_order_failed, order + 1);
}

compact_result compact_unless_deferred(machine &m, u32 order, migrate_mode mode, bool direct) {
    zone_struct &z = m.h->zone;
    if (compaction_deferred(z, order)) return COMPACT_DEFERRED;
    if (z.compact_defer_shift == COMPACT_MAX_DEFER_SHIFT && z.compact_considered >= defer_limit(z))
        forget_skips(m); // compaction_restarting
    const compact_result result = compact_zone(m, order, mode, direct);
    if (result == COMPACT_SUCCESS) compaction_defer_reset(z, order, false);
    const bool complete = result == COMPACT_COMPLETE || result == COMPACT_PARTIAL_SKIPPED;
    if (complete && mode != COMPACT_ASYNC) defer_compaction(z, order);
    return result;
}

} // namespace

compact_result try_to_compact_pages(machine &m, u32 order, migrate_mode mode) {
    return compact_unless_deferred(m, order, mode, true);
}

void count_direct_compact(machine &m, u32 order, bool allocated) {
    m.count(VM_compact_stall);
    m.count(allocated ? VM_compact_success : VM_compact_fail);
    if (allocated) compaction_defer_reset(m.h->zone, order, true);
}

void kcompactd_do_work(machine &m, u32 order) {
    m.count(VM_compact_daemon_wake);
    compact_unless_deferred(m, order, COMPACT_SYNC_LIGHT, false);
}

void reset_isolation_suitable(machine &m) {
    if (m.h->zone.compact_blockskip_flush) forget_skips(m);
}

void compact_memory(machine &m) { compact_zone(m, COMPACT_ALL, COMPACT_SYNC_LIGHT, false); }

} // namespace thp
