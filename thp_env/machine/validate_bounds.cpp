// Whether every index of a state points into its table and every list ends: what the rest of validate() and
// the machine itself rely on without a look.
#include "hardware/tlb.hpp"
#include "kernel/buddy.hpp"
#include "kernel/huge_memory.hpp"
#include "kernel/swap.hpp"
#include "validate.hpp"
#include <algorithm>
#include <bit>

namespace thp {

namespace {

struct bounds : report {
    machine &m;
    header &h;
    const u32 frames, nr_vmas, mms;

    explicit bounds(machine &state)
        : m(state), h(*state.h), frames(used(ARRAY_pages)), nr_vmas(used(ARRAY_vmas)), mms(used(ARRAY_mms)) {}

    u32 used(arena_array_id array) const { return m.h->arrays[array].used; }
    static bool within(u32 index, u32 n) { return index < n; }
    static bool within_or_nil(u32 index, u32 n) { return index < n || index == NIL; }
    static bool address(u64 a) { return a <= TASK_SIZE && a % PAGE_SIZE == 0; }
    static bool orders(u32 mask) { return !(mask & ~THP_ORDERS_ALL); }

    void arrays() {
        for (u32 i = 0; i < NR_ARRAYS; ++i)
            expect(h.arrays[i].used <= h.arrays[i].capacity && h.arrays[i].in_use <= h.arrays[i].used,
                   "table that is too full", i);
        const u32 blocks = (frames + PAGEBLOCK_NR_PAGES - 1) >> PAGEBLOCK_ORDER;
        expect(used(ARRAY_contents) == frames && used(ARRAY_block_heads) == blocks &&
                   used(ARRAY_pageblocks) == blocks &&
                   used(ARRAY_page_table_frames) == used(ARRAY_page_tables) &&
                   h.swap_slots <= h.arrays[ARRAY_swap].capacity && used(ARRAY_swap) <= h.swap_slots &&
                   used(ARRAY_tlb) == h.arrays[ARRAY_tlb].capacity &&
                   used(ARRAY_clusters) == (h.swap_slots + SWAPFILE_CLUSTER - 1) / SWAPFILE_CLUSTER &&
                   used(ARRAY_regions) <= h.arrays[ARRAY_regions].capacity &&
                   used(ARRAY_processes) == h.arrays[ARRAY_processes].capacity,
               "arrays of different lengths");
        const u32 answers = used(ARRAY_order_answers);
        expect(answers == 0 ||
                   (std::has_single_bit(answers) && h.arrays[ARRAY_order_answers].in_use < answers),
               "size of the table of answers", answers);
    }

    // A list of free records that ends, and holds all that are not in use.
    template <typename Next> std::vector<u8> free_records(arena_array_id array, Next next) {
        const arena_array &t = h.arrays[array];
        std::vector<u8> free(t.used);
        u32 n = 0;
        for (u32 i = t.free; i != NIL && broken.empty(); i = next(i), ++n) {
            const bool fresh = i < t.used && !free[i];
            expect(fresh, "list of free records broken", array);
            if (!fresh) break;
            free[i] = 1;
        }
        expect(n == t.used - t.in_use, "number of free records", array);
        return free;
    }

    void settings() {
        for (u32 i = 0; i < NR_SETTINGS; ++i) expect(*setting(m, i) < SETTING_VALUES[i], "setting", i);
        for (const u32 mode : h.thp_mode) expect(mode <= THP_INHERIT, "mode of a size", mode);
        expect(!h.in_reclaim && orders(h.default_orders) && h.order_hook < NR_ORDER_HOOKS, "settings");
        expect(h.policy.khugepaged_address % PMD_SIZE == 0, "where khugepaged goes on",
               h.policy.khugepaged_address);
    }

    // Numbers of groups in what refers to them, and what arithmetic relies on.
    void groups() {
        const u32 n = used(ARRAY_memcgs);
        expect(n > 0 && m.memcgs[0].made && h.memcg_iter < n && !h.in_memstall && h.memcg_oom <= n &&
                   within_or_nil(h.task_memcg, n),
               "control groups");
        if (!broken.empty()) return;
        const auto pressure = [this](const psi_group &g, u32 i) {
            const u64 stalled = std::max(g.total[PSI_SOME], g.total[PSI_FULL]);
            const u64 *avg = &g.avg[0][0];
            expect(g.avg_last_update < g.avg_next_update &&
                       g.avg_next_update - g.avg_last_update < 1ULL << 42 && g.avg_last_update <= h.clock &&
                       stalled <= h.clock && g.avg_total[PSI_SOME] <= g.total[PSI_SOME] &&
                       g.avg_total[PSI_FULL] <= g.total[PSI_FULL] &&
                       std::all_of(
                           avg, avg + NR_PSI_STATES * NR_PSI_AVGS, [](u64 a) { return a <= 100 << 11; }),
                   "pressure", i);
        };
        pressure(h.psi_system, n);
        for (u32 i = 0; i < n && broken.empty(); ++i) {
            const mem_cgroup &g = m.memcgs[i];
            expect(g.made <= 1 && g.swappiness < SETTING_VALUES[SET_SWAPPINESS] && g.stock <= g.usage &&
                       g.usage <= frames && within_or_nil(g.deferred_head, frames),
                   "control group", i);
            if (g.made) pressure(g.psi, i);
        }
        for (u32 mm = 0; mm < mms; ++mm) expect(m.mms[mm].memcg < n, "process of no control group", mm);
        for (u32 i = 0; i < used(ARRAY_swap); ++i)
            expect(m.swap[i].memcg <= n, "slot of no control group", i);
        for (u32 pfn = 0; pfn < frames; ++pfn)
            expect(m.pages[pfn].flags >> MEMCG_SHIFT < n, "page of no control group", pfn);
    }

    void time() {
        expect(h.clock <= CLOCK_MAX && h.memory_clock <= h.clock, "clock", h.clock);
        for (const u64 rest : h.memory_rest) expect(rest < 1000000, "rest of memory over time", rest);
        expect(h.at.oom <= 1 && h.at.error <= 0 && h.at.error > -ENEEDORDER, "result of a system call");
        expect(h.time_vma == NIL, "time spent for a VMA between two operations", h.time_vma);
    }

    void memory() {
        const zone_struct &z = h.zone;
        for (const u32 has : z.orders) expect(has >> (MAX_PAGE_ORDER + 1) == 0, "orders of free blocks", has);
        expect(within_or_nil(z.migrate_pfn, frames + 1) && within_or_nil(z.free_pfn, frames + 1) &&
                   z.compact_defer_shift < 7 && z.kcompactd_order <= MAX_PAGE_ORDER,
               "state of compaction");
        expect(within(h.zero_pfn, frames) && within_or_nil(h.huge_zero_pfn, frames), "zero pages");
        for (u32 pfn = 0; pfn < frames; ++pfn) {
            m.host.work();
            const page &p = m.pages[pfn];
            expect(p.order <= MAX_PAGE_ORDER && p.tail < HPAGE_PMD_NR && p.tail <= pfn, "malformed page",
                   pfn);
            expect(!(p.flags & PG_anon) || within_or_nil(p.anon_vma, used(ARRAY_anon_vmas)),
                   "page of no anon_vma", pfn);
            expect((m.contents[pfn] & CONTENT_MASK) <= 100, "content of a page", pfn);
            if (!(p.flags & PG_swapcache)) continue;
            expect(p.swap < used(ARRAY_swap) && m.swap[p.swap].cached == pfn + 1, "page of the swap cache",
                   pfn);
        }
        for (u32 i = 0; i < used(ARRAY_pageblocks); ++i)
            expect((m.pageblocks[i] & PB_migratetype) < MIGRATE_PCPTYPES, "type of a page block", i);
        for (u32 i = 0; i < used(ARRAY_pins); ++i)
            expect(m.pins[i].pfn < frames && m.pins[i].process < used(ARRAY_processes), "pin", i);
        for (const folio_batch *batch : {&h.lru_adds, &h.lru_lazyfrees}) {
            expect(batch->nr <= FOLIO_BATCH_SIZE, "folios in a batch", batch->nr);
            for (u32 i = 0; i < std::min(batch->nr, FOLIO_BATCH_SIZE); ++i) {
                const u32 head = batch->folios[i];
                expect(head < frames && (m.pages[head].flags & PG_head), "batch of no folio", head);
            }
        }
        u32 n = 0;
        for (u32 head = h.pool_head; head != NIL && broken.empty(); head = m.pages[head].next) {
            expect(head < frames && n++ < h.config.pool_blocks, "list of reserved blocks broken", head);
            if (!broken.empty()) return;
        }
    }

    void page_cache() {
        u64 cached = 0;
        std::vector<u8> visited(frames);
        for (u32 i = 0; i < used(ARRAY_page_cache) && broken.empty(); ++i) {
            const u32 pfn = m.page_cache[i];
            if (pfn == 0) continue;
            expect(pfn < frames && m.pages[pfn].flags & PG_file && !visited[pfn],
                   "page cache without its page", i);
            if (broken.empty()) visited[pfn] = 1;
            ++cached;
        }
        expect_equal(h.vm[VM_nr_file_pages], cached, "pages of files");
    }

    void page_tables() {
        const std::vector<u8> free =
            free_records(ARRAY_page_tables, [this](u32 i) { return m.page_table_frames[i]; });
        for (u32 i = 0; i < free.size() && broken.empty(); ++i) {
            m.host.work(8);
            const u64 *entries = m.page_tables + u64{i} * PTRS_PER_TABLE;
            const bool clean =
                std::all_of(entries, entries + PTRS_PER_TABLE, [](u64 entry) { return entry == 0; });
            expect(free[i] ? clean : m.page_table_frames[i] < frames, "page table", i);
        }
    }

    void address_spaces() {
        const std::vector<u8> free = free_records(ARRAY_mms, [this](u32 i) { return m.mms[i].next_free; });
        u32 huge_zero = 0;
        for (u32 mm = 0; mm < mms && broken.empty(); ++mm) {
            const mm_struct &s = m.mms[mm];
            expect(s.in_use == !free[mm], "process on the list of free ones", mm);
            if (!s.in_use) continue;
            expect(s.pgd < used(ARRAY_page_tables) && s.mmap_base <= TASK_SIZE && s.start_brk <= s.brk &&
                       s.brk <= TASK_SIZE && s.thp_disable <= 2 && s.huge_zero <= 1,
                   "malformed process", mm);
            huge_zero += s.huge_zero;
        }
        expect_equal(h.huge_zero_users, huge_zero, "users of the huge zero page");
        std::vector<u8> owned(mms);
        for (u32 i = 0; i < used(ARRAY_processes) && broken.empty(); ++i) {
            const u32 mm = m.processes[i];
            if (mm == NIL) continue;
            expect(mm < mms && m.mms[mm].in_use && !owned[mm], "process without its address space", i);
            if (broken.empty()) owned[mm] = 1;
        }
        expect(within_or_nil(h.current_mm, mms), "process on the CPU", h.current_mm);
        for (const u32 mm : h.asid_mm) expect(within_or_nil(mm, h.config.max_mms), "ASID of no process", mm);
        expect(h.next_asid < std::max(1U, h.config.tlb.nr_asids), "next ASID", h.next_asid);
        for (u32 i = 0; i < used(ARRAY_regions); ++i)
            expect(m.regions[i].start <= TASK_SIZE && m.regions[i].length <= TASK_SIZE, "region", i);
        const order_question &q = h.question;
        expect(q.state == ORDER_IDLE ||
                   (q.state <= ORDER_ANSWERED && q.mm < mms && m.mms[q.mm].in_use && q.type < NR_TVA_TYPES &&
                    q.address < TASK_SIZE && orders(q.orders | 1)),
               "question about an order");
    }

    void vmas() {
        const u32 anon_vmas = used(ARRAY_anon_vmas);
        const std::vector<u8> free = free_records(ARRAY_vmas, [this](u32 i) { return m.vmas[i].next_free; });
        const std::vector<u8> free_anon =
            free_records(ARRAY_anon_vmas, [this](u32 i) { return m.anon_vmas[i].next_free; });
        expect(h.nr_vmas <= used(ARRAY_vma_order), "VMAs in order", h.nr_vmas);
        std::vector<u32> ids;
        for (u32 i = 0; i < h.nr_vmas && broken.empty(); ++i) {
            const u32 number = m.vma_order[i];
            expect(number < nr_vmas && !free[number], "VMA that is none", i);
            if (!broken.empty()) return;
            const vm_area_struct &v = m.vmas[number];
            expect(v.vm_mm < mms && address(v.vm_start) && address(v.vm_end) && orders(v.orders) &&
                       v.vm_flags < 2 * VM_SHARED,
                   "malformed VMA", number);
            expect(v.vm_file ? u64{v.vm_file} - 1 + v.file_pages <= used(ARRAY_page_cache)
                             : !(v.vm_flags & (VM_FILE | VM_SHARED)),
                   "VMA of no file", number);
            expect(within_or_nil(v.anon_vma, anon_vmas) && (v.anon_vma == NIL || !free_anon[v.anon_vma]) &&
                       within_or_nil(v.anon_next, nr_vmas) && within_or_nil(v.anon_prev, nr_vmas),
                   "VMA of no anon_vma", number);
            ids.push_back(v.id);
        }
        std::sort(ids.begin(), ids.end());
        expect(std::adjacent_find(ids.begin(), ids.end()) == ids.end(), "two VMAs with one id");
        expect(ids.empty() || (ids.front() > 0 && ids.back() <= h.next_vma_id), "id of a VMA");
        for (u32 i = 0; i < anon_vmas && broken.empty(); ++i) {
            if (free_anon[i]) continue;
            expect(within(m.anon_vmas[i].root, anon_vmas) && !free_anon[m.anon_vmas[i].root] &&
                       within_or_nil(m.anon_vmas[i].head, nr_vmas),
                   "anon_vma", i);
        }
    }

    void translations() {
        for (u32 copy = 0; copy < (h.config.shadow_tlb ? 2U : 1U); ++copy) {
            const tlb &t = m.translations[copy];
            for (const tlb_array &array : t.arrays) {
                expect(array.sound(), "order of a TLB");
                array.for_each(
                    [&](u64 tag, u64) { expect(tag_size(tag) < NR_PAGE_SIZES, "size in a TLB", tag); });
            }
            for (const tlb_array &array : t.pwc) expect(array.sound(), "order of a walk cache");
            expect(t.nested.sound(), "order of the nested TLB");
        }
        for (u32 i = 0; i < used(ARRAY_lost_translations); ++i) {
            const lost_translation &lost = m.lost_translations[i];
            const u32 kinds = LOST_PWC + NR_PWC * (h.config.shadow_tlb ? 2U : 1U);
            expect(lost.from < kinds && (lost.from != LOST_SHADOW || h.config.shadow_tlb) &&
                       lost.size < NR_PAGE_SIZES && lost.address >> 48 == 0,
                   "lost translation", i);
        }
        expect(h.tlb_sizes < 1U << NR_PAGE_SIZES, "sizes in the TLB", h.tlb_sizes);
    }

    void answers() {
        u32 n = 0;
        for (u32 i = 0; i < used(ARRAY_order_answers); ++i) {
            const order_answer &a = m.order_answers[i];
            n += a.vma != 0;
            for (const u8 order : a.order)
                expect(order <= PMD_ORDER || order == ORDER_NOT_ASKED || a.vma == 0, "answer about an order",
                       i);
        }
        expect_equal(h.arrays[ARRAY_order_answers].in_use, n, "answers about orders");
    }
};

} // namespace

std::string validate_bounds(machine &m) {
    bounds b(m);
    void (bounds::*const parts[])() = {
        &bounds::arrays, &bounds::settings,     &bounds::groups,      &bounds::time,
        &bounds::memory, &bounds::page_cache,   &bounds::page_tables, &bounds::address_spaces,
        &bounds::vmas,   &bounds::translations, &bounds::answers,
    };
    for (const auto part : parts) {
        (b.*part)();
        if (!b.broken.empty()) return b.broken;
    }
    return swap_broken(m);
}

} // namespace thp
