// Every number that the machine keeps is counted again here from what it was derived from.
#include "validate.hpp"
#include "frame_census.hpp"
#include "hardware/tlb.hpp"
#include "kernel/contpte.hpp"
#include "kernel/huge_memory_bpf.hpp"
#include "kernel/mmap.hpp"
#include "kernel/page_alloc.hpp"
#include "kernel/page_table.hpp"
#include "kernel/swap.hpp"
#include <numeric>

namespace thp {

namespace {

struct scan : frame_census {
    std::vector<i32> ptes;   // mappings of each frame by PTEs
    std::vector<u32> pmds;   // ... of each head by PMDs
    std::vector<u32> pinned; // pins of each head's pages
    std::vector<u8> reached; // page tables
    std::vector<u64> rss, swapents;
    std::vector<u32> swapped; // entries that refer to each slot

    explicit scan(machine &state)
        : frame_census(state), ptes(owner.size()), pmds(owner.size()), pinned(owner.size()),
          reached(m.h->arrays[ARRAY_page_tables].used), rss(m.h->arrays[ARRAY_mms].used),
          swapents(rss.size()), swapped(m.h->arrays[ARRAY_swap].used) {
        for (u32 i = 0; i < m.h->arrays[ARRAY_pins].used; ++i) ++pinned[page_head(m, m.pins[i].pfn)];
    }

    // One PTE or PMD that maps `nr` pages from `pfn` on at the address.
    void mapping(u32 mm, u64 address, u64 entry, u32 nr) {
        const u32 v = vma_lookup(m, mm, address), pfn = pte_pfn(entry);
        if (v == NIL) return expect(false, "entry outside every VMA", address);
        const vm_area_struct &vma = m.vmas[v];
        expect(address + nr * PAGE_SIZE <= vma.vm_end, "entry that reaches out of its VMA", address);
        if (is_swap_pte(entry)) {
            if (pte_swp_offset(entry) >= swapped.size()) return expect(false, "no such swap slot", address);
            ++swapped[pte_swp_offset(entry)];
            ++swapents[mm];
            return;
        }
        if (!pte_present(entry)) return expect(entry == PTE_GUARD && nr == 1, "unknown entry", address);
        const bool accessible = vma.vm_flags & (VM_READ | VM_WRITE);
        expect(accessible == !(entry & PTE_PROTNONE), "protection is not the VMA's", address);
        expect(!(entry & PTE_RW) || (vma.vm_flags & VM_WRITE), "writable entry in a read-only VMA", address);
        if (entry & PTE_SPECIAL) {
            const bool huge = nr > 1 || (entry & PTE_CONT);
            const u32 within = entry & PTE_CONT ? pte_index(address) % CONT_PTES : 0;
            expect(pfn == (huge ? m.h->huge_zero_pfn + within : m.h->zero_pfn),
                   "special entry that is not zero", address);
            return expect(!(entry & PTE_RW), "writable zero page", address);
        }
        if (u64{pfn} + nr > owner.size()) return expect(false, "entry beyond memory", address);
        rss[mm] += nr;
        const u32 head = page_head(m, pfn);
        const page &folio = m.pages[head];
        if (folio.flags & PG_file) {
            ++ptes[pfn];
            return expect(vma.vm_file != 0, "page of a file in anonymous memory", address);
        }
        expect((folio.flags & PG_head) && (folio.flags & PG_anon), "entry to a frame that is no folio",
               address);
        expect(nr == 1 || (pfn == head && folio.order == PMD_ORDER), "PMD that maps no 2M folio", address);
        const u32 root = vma.anon_vma == NIL ? NIL : m.anon_vmas[vma.anon_vma].root;
        expect(folio.anon_vma == root && root != NIL, "folio of another anon_vma", address);
        expect(folio.index + (pfn - head) == vma.vm_pgoff + ((address - vma.vm_start) >> PAGE_SHIFT),
               "folio at the wrong offset of its anon_vma", address);
        expect(!(entry & PTE_RW) || (m.pages[pfn].flags & PG_anon_exclusive), "writable, not exclusive",
               address);
        if (contpte_maps_entirely(m, entry)) {
            pmds[head] += pfn == head;
        } else if (nr == 1) {
            ++ptes[pfn];
        } else {
            ++pmds[head];
        }
    }

    void table(u32 mm, u32 number, u32 shift, u64 base) {
        if (number >= reached.size()) return expect(false, "no such page table", base);
        expect(!reached[number], "page table with two parents", base);
        reached[number] = 1;
        own(m.page_table_frames[number], 1, OWNER_TABLE);
        if (!broken.empty()) return;
        expect(m.pages[m.page_table_frames[number]].flags == PG_table, "page table without its mark", base);
        for (u32 i = 0; i < PTRS_PER_TABLE && broken.empty(); ++i) {
            m.host.work();
            u64 *slot = m.page_tables + u64{number} * PTRS_PER_TABLE + i;
            const u64 entry = *slot, address = base + (u64{i} << shift);
            if (pte_none(entry)) continue;
            if (const char *error = contpte_broken(m, address, slot)) expect(false, error, address);
            if (shift == PAGE_SHIFT) {
                mapping(mm, address, entry, 1);
            } else if (entry & PTE_PSE) {
                expect(shift == PMD_SHIFT, "huge entry above the PMD", address);
                mapping(mm, address, entry, HPAGE_PMD_NR);
            } else {
                const u32 v = find_vma(m, mm, address);
                expect(v != NIL && m.vmas[v].vm_start < address + (1ULL << shift),
                       "page table that serves no VMA", address);
                table(mm, pte_pfn(entry), shift - 9, address);
            }
        }
    }

    void page_tables() {
        for (u32 mm = 0; mm < rss.size() && broken.empty(); ++mm) {
            if (!m.mms[mm].in_use) continue;
            table(mm, m.mms[mm].pgd, PGDIR_SHIFT, 0);
            expect_equal(m.mms[mm].rss, rss[mm], "rss of mm " + std::to_string(mm));
            expect_equal(m.mms[mm].swapents, swapents[mm], "swapents of mm " + std::to_string(mm));
        }
        const u64 in_use = std::accumulate(reached.begin(), reached.end(), u64{0});
        expect_equal(m.h->arrays[ARRAY_page_tables].in_use, in_use, "page tables in use");
        expect_equal(m.h->vm[VM_nr_page_table], in_use, "nr_page_table");
    }

    // The counts of one folio against its mappings; returns how many of its pages somebody maps.
    u32 folio(u32 head) {
        const page &f = m.pages[head];
        const u32 nr = 1U << f.order;
        expect(f.order <= PMD_ORDER && f.order != 1 && head % nr == 0 && f.tail == 0, "malformed folio",
               head);
        own(head, nr, OWNER_FOLIO);
        u32 mapped = 0, by_pte = 0;
        i64 mappings = pmds[head];
        for (u32 i = head; i < head + nr && i < owner.size(); ++i) {
            expect(page_head(m, i) == head, "tail page of another folio", i);
            expect(i == head || !(m.pages[i].flags & (PG_head | PG_buddy | PG_table)),
                   "tail page with a head's flag", i);
            expect(m.pages[i].mapcount == ptes[i], "mapcount", i);
            mapped += ptes[i] > 0 || pmds[head] > 0;
            by_pte += ptes[i] > 0;
            mappings += ptes[i];
        }
        const bool cached = f.flags & (PG_swapcache | PG_file); // the cache holds a reference
        const u32 pins = pinned[head];
        expect(f.pincount == pins, "pincount", head);
        expect(mapped > 0 || cached || pins, "folio that nobody maps", head);
        expect(f.refcount == mappings + cached + pins, "refcount", head);
        if (f.order) {
            expect(f.large_mapcount == mappings, "large_mapcount", head);
            expect(f.entire_mapcount == pmds[head], "entire_mapcount", head);
            expect(f.nr_pages_mapped == by_pte + (pmds[head] ? ENTIRELY_MAPPED : 0), "nr_pages_mapped", head);
            const bool partially = f.flags & PG_partially_mapped;
            const bool pinned = pins > 0 && mapped == 0; // unmapped at once, and held by a pin alone
            expect(pinned || partially == (mapped < nr), "PG_partially_mapped", head);
        }
        return nr == 1 ? 1 : mapped; // small folios are not counted in nr_unmapped
    }

    void folios() {
        u64 resident = m.h->vm[VM_nr_zspages], files = 0, untouched = 0, unmapped = 0;
        u64 of_order[PMD_ORDER + 1] = {}, partially[PMD_ORDER + 1] = {};
        for (u32 pfn = 0; pfn < owner.size();) {
            const page &p = m.pages[pfn];
            if (owner[pfn] != OWNER_NONE || !(p.flags & PG_head) || p.order > PMD_ORDER) {
                ++pfn;
                continue;
            }
            m.host.work();
            const u32 nr = 1U << p.order;
            (p.flags & PG_file ? files : resident) += nr;
            unmapped += nr - folio(pfn);
            for (u32 i = pfn; i < pfn + nr && i < owner.size(); ++i)
                untouched += !(m.contents[i] & CONTENT_TOUCHED);
            ++of_order[p.order];
            partially[p.order] += (p.flags & PG_partially_mapped) != 0;
            pfn += nr;
        }
        expect_equal(m.h->vm[VM_nr_resident], resident, "nr_resident");
        expect_equal(m.h->vm[VM_nr_file_pages], files, "nr_file_pages");
        expect_equal(m.h->vm[VM_nr_untouched], untouched, "nr_untouched");
        expect_equal(m.h->vm[VM_nr_unmapped], unmapped, "nr_unmapped");
        for (u32 order = 2; order <= PMD_ORDER; ++order) {
            const std::string at = " of order " + std::to_string(order);
            expect_equal(m.h->mthp[order][MTHP_nr_anon], of_order[order], "nr_anon" + at);
            expect_equal(m.h->mthp[order][MTHP_nr_anon_partially_mapped], partially[order],
                         "nr_anon_partially_mapped" + at);
        }
        for (u32 pfn = 0; pfn < owner.size(); ++pfn) expect(owner[pfn] != OWNER_NONE, "leaked frame", pfn);
    }

    void swap_slots() {
        u32 used = 0;
        for (u32 slot = 0; slot < swapped.size(); ++slot) {
            const u32 page = swap_cache_get(m, slot);
            expect(m.swap[slot].count == swapped[slot], "count of swap slot", slot);
            used += m.swap[slot].count > 0 || page != NIL;
            if (page == NIL) continue;
            const bool matches =
                page < owner.size() && (m.pages[page].flags & PG_swapcache) && m.pages[page].swap == slot;
            expect(matches, "swap cache without its page", slot);
        }
        expect_equal(m.h->swap_used, used, "swap_used");
    }

    void vmas() {
        std::vector<u32> of_mm(rss.size());
        u64 linked = 0, with_anon = 0;
        std::vector<u32> users(m.h->arrays[ARRAY_anon_vmas].used);
        std::vector<u8> roots(users.size());
        for (u32 i = 0; i < m.h->nr_vmas; ++i) {
            const vm_area_struct &v = m.vmas[m.vma_order[i]];
            if (v.vm_mm >= of_mm.size() || !m.mms[v.vm_mm].in_use)
                return expect(false, "VMA of no process", v.vm_start);
            ++of_mm[v.vm_mm];
            if (v.anon_vma != NIL && v.anon_vma < users.size()) {
                ++with_anon;
                ++users[v.anon_vma];
                roots[m.anon_vmas[v.anon_vma].root] = 1;
            }
            expect(v.vm_start < v.vm_end && v.vm_start % PAGE_SIZE == 0 && v.vm_end % PAGE_SIZE == 0,
                   "malformed VMA", v.vm_start);
            if (i == 0) continue;
            const vm_area_struct &before = m.vmas[m.vma_order[i - 1]];
            expect(before.vm_mm < v.vm_mm || (before.vm_mm == v.vm_mm && before.vm_end <= v.vm_start),
                   "VMAs overlap", v.vm_start);
        }
        for (u32 mm = 0; mm < of_mm.size(); ++mm) expect_equal(m.mms[mm].map_count, of_mm[mm], "map_count");
        expect_equal(m.h->arrays[ARRAY_vmas].in_use, m.h->nr_vmas, "VMAs in use");
        u64 anon_vmas = 0;
        for (u32 a = 0; a < users.size(); ++a) {
            anon_vmas += users[a] > 0 || roots[a];
            if (users[a]) expect_equal(m.anon_vmas[a].users, users[a], "users of an anon_vma");
            u32 before = NIL;
            u64 n = 0;
            for (u32 v = roots[a] ? m.anon_vmas[a].head : NIL; v != NIL && n++ < m.h->nr_vmas;
                 v = m.vmas[v].anon_next) {
                const bool matches =
                    m.vmas[v].anon_vma < users.size() && m.anon_vmas[m.vmas[v].anon_vma].root == a;
                expect(matches && m.vmas[v].anon_prev == before, "list of an anon_vma broken", a);
                if (!matches) break;
                expect(before == NIL || m.vmas[before].vm_pgoff <= m.vmas[v].vm_pgoff,
                       "VMAs of an anon_vma out of order", a);
                before = v;
                ++linked;
            }
        }
        expect_equal(with_anon, linked, "VMAs linked to an anon_vma");
        expect_equal(m.h->arrays[ARRAY_anon_vmas].in_use, anon_vmas, "anon_vmas in use");
    }

    // A cached translation must still be what a walk would find, for every page that it covers.
    void translation(const tlb &t, u64 tag, u64 data, bool is_shadow) {
        const u32 mm = tag_mm(tag), size = tag_size(tag);
        if (mm >= rss.size() || !m.mms[mm].in_use) return expect(false, "translation of no process", mm);
        expect(is_shadow || m.h->tlb_sizes >> size & 1, "translation of a size that is not noted", size);
        const u64 start = (tag >> 16) << t.shift[size];
        const u64 *pmd = pmd_offset(m, mm, start);
        if (!pmd || !(*pmd & PTE_PRESENT)) return expect(false, "stale translation", start);
        const bool huge = *pmd & PTE_PSE;
        const bool piece = size == t.piece[0][SIZE_2M] || size == t.piece[1][SIZE_2M]; // of a huge page
        expect(is_shadow || (huge ? piece : size != SIZE_2M), "translation of another size", start);
        const u64 end = huge || is_shadow ? start + PAGE_SIZE : start + (1ULL << t.shift[size]);
        for (u64 at = start; at < end; at += PAGE_SIZE) {
            const u64 entry = huge ? *pmd : *pte_offset(m, *pmd, at);
            expect(entry & PTE_PRESENT, "stale translation", at);
            if (is_shadow) continue;
            const u32 pfn = pte_pfn(entry) + (huge ? pte_index(at) : 0);
            expect(t.pfn(data, at, size) == pfn, "translation to another frame", at);
            const bool dirty = (entry & PTE_DIRTY) || size == SIZE_CONTPTE; // X5: one bit for the block
            expect(!(data & TLB_WRITE) || ((entry & PTE_RW) && dirty), "translation writable, entry not", at);
        }
    }

    void translations() {
        for (u32 copy = 0; copy < (m.h->config.shadow_tlb ? 2U : 1U); ++copy) {
            const tlb &t = m.translations[copy];
            for (const tlb_array &array : t.arrays) {
                array.for_each([&](u64 tag, u64 data) { translation(t, tag, data, copy == 1); });
            }
            for (u32 i = 0; i < NR_PWC; ++i) t.pwc[i].for_each([&](u64 tag, u64) { walk_cache(tag, i); });
        }
    }

    // Something must still be mapped below a cached PDE, PDPTE or PML4E.
    void walk_cache(u64 tag, u32 level) {
        const u32 mm = tag_mm(tag), shift = PMD_SHIFT + 9 * level;
        const u64 address = (tag >> 16) << shift;
        if (mm >= rss.size() || !m.mms[mm].in_use) return expect(false, "walk cache of no process", mm);
        const u32 v = find_vma(m, mm, address);
        expect(v != NIL && m.vmas[v].vm_start < address + (1ULL << shift), "stale walk cache", address);
    }

    void answers() { expect(order_answers_sound(m), "answers about orders"); }

    // Frames that no process owns: the reserve, and the zero pages.
    void kept() {
        for (u32 head = m.h->pool_head; head != NIL && broken.empty(); head = m.pages[head].next)
            own(head, CONT_PTES, OWNER_FREE);
        own(m.h->zero_pfn, 1, OWNER_ZERO);
        if (m.h->huge_zero_pfn != NIL) own(m.h->huge_zero_pfn, HPAGE_PMD_NR, OWNER_ZERO);
    }

    void clock() {
        const u64 sum = std::accumulate(std::begin(m.h->times), std::end(m.h->times), u64{0});
        expect_equal(m.h->clock, sum, "times do not add up to the clock");
    }
};

} // namespace

std::string validate(machine &m) {
    if (std::string broken = validate_bounds(m); !broken.empty()) return broken;
    scan s(m);
    void (scan::*const parts[])() = {
        &scan::vmas,         &scan::free_lists,  &scan::held,   &scan::zspages,
        &scan::kept,         &scan::page_tables, &scan::folios, &scan::swap_slots,
        &scan::translations, &scan::answers,     &scan::clock,
    };
    for (const auto part : parts) { // each relies on those before
        (s.*part)();
        if (!s.broken.empty()) return s.broken;
    }
    return validate_lists(m);
}

std::string validate_loaded(machine &m, const program_view &program) {
    const cursor &at = m.h->at;
    const u64 steps = at.op < program.nr_ops ? std::max<u64>(1, steps_of(program.ops[at.op])) : 1;
    if (at.op > program.nr_ops || at.step >= steps) return "it stands outside the program";
    const call_progress &call = at.call;
    const bool paged =
        (call.reached | call.flush_start | call.flush_end) % PAGE_SIZE == 0 || call.flush_end == 0;
    if (!paged || call.reached > TASK_SIZE || call.flush_end > TASK_SIZE ||
        (call.flush_end && call.flush_shift != PAGE_SHIFT && call.flush_shift != PMD_SHIFT))
        return "it stands outside a call";
    return validate(m);
}

} // namespace thp
