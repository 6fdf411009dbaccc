#include "task_mmu.hpp"
#include "contpte.hpp"
#include "page_alloc.hpp"
#include "page_table.hpp"
#include "swap.hpp"
#include <algorithm>

namespace thp {

namespace {

page_layout describe(const machine &m, u64 entry, bool huge, u32 offset) {
    page_layout p{};
    if (!pte_present(entry)) {
        p.kind = is_swap_pte(entry) ? KIND_SWAP : entry & PTE_GUARD ? KIND_GUARD : KIND_NONE;
        if (p.kind == KIND_SWAP) p.head = pte_swp_offset(entry);
        return p;
    }
    if (entry & PTE_ACCESSED) p.flags |= LAYOUT_YOUNG;
    if (entry & PTE_DIRTY) p.flags |= LAYOUT_DIRTY;
    if (huge) p.flags |= LAYOUT_PMD;
    if (entry & PTE_CONT) p.flags |= LAYOUT_CONT;
    if (entry & PTE_SPECIAL) {
        p.kind = huge ? KIND_HUGE_ZERO : KIND_ZERO;
        return p;
    }
    const u32 pfn = pte_pfn(entry) + offset, head = page_head(m, pfn);
    const page &folio = m.pages[head];
    p.kind = folio.flags & PG_file ? KIND_FILE : KIND_FOLIO;
    p.order = folio.order;
    p.head = head;
    p.index = static_cast<u16>(pfn - head);
    p.mapcount = static_cast<u32>(m.pages[pfn].mapcount) + folio.entire_mapcount;
    p.content = m.contents[pfn] & CONTENT_MASK;
    if (m.pages[huge ? head : pfn].flags & PG_anon_exclusive) p.flags |= LAYOUT_EXCLUSIVE;
    if (!(folio.flags & PG_swapbacked)) p.flags |= LAYOUT_NOT_SWAPBACKED;
    if (!(folio.flags & PG_lru)) p.flags |= LAYOUT_NOT_LRU;
    if (folio.flags & PG_swapcache) p.flags |= LAYOUT_SWAPCACHE;
    if (folio.flags & PG_dirty) p.flags |= LAYOUT_DIRTY;
    if (m.contents[pfn] & CONTENT_TOUCHED) p.flags |= LAYOUT_TOUCHED;
    return p;
}

} // namespace

void pagemap(machine &m, u32 mm, u64 start, u64 pages, page_layout *out) {
    for (u64 i = 0; i < pages; ++i) {
        m.host.work();
        const u64 address = start + (i << PAGE_SHIFT);
        u64 *pmd = pmd_offset(m, mm, address);
        if (!pmd || pte_none(*pmd)) {
            out[i] = page_layout{};
        } else if (pmd_trans_huge(*pmd)) {
            out[i] = describe(m, *pmd, true, pte_index(address));
        } else {
            out[i] = describe(m, ptep_get(m, pte_offset(m, *pmd, address)), false, 0);
        }
    }
}

vma_smaps vma_statistics(const vm_area_struct &v) {
    vma_smaps s{};
    s.vm_start = v.vm_start;
    s.vm_end = v.vm_end;
    s.vm_flags = v.vm_flags;
    s.orders = v.orders;
    s.id = v.id;
    s.mm = v.vm_mm;
    s.born = v.born;
    std::copy(std::begin(v.faults), std::end(v.faults), std::begin(s.faults));
    s.zapped = v.zapped;
    s.zap_calls = v.zap_calls;
    s.asked = v.asked.number;
    s.asked_faults = v.asked.faults;
    s.asked_zapped = v.asked.zapped;
    s.asked_clock = v.asked.clock;
    s.asked_walks = v.asked.walks;
    std::copy(std::begin(v.times), std::end(v.times), std::begin(s.times));
    return s;
}

namespace {

// Adds what the page tables hold in a range; returns how many entries are present.
u64 read_range(machine &m, u32 mm, u64 start, u64 end, bool clear_refs, vma_smaps &s) {
    u64 entries = 0;
    const auto note = [&](u64 pages, u64 young) {
        ++entries;
        s.young += young ? pages : 0;
    };
    const auto note_folio = [&](const page &folio, u64 pages) {
        s.by_order[folio.order] += pages;
        s.partial += folio.flags & PG_partially_mapped ? pages : 0;
    };
    const auto visit = [&](u64 entry, u64 pages) {
        if (is_swap_pte(entry)) ++s.swapped;
        if (!pte_present(entry)) return;
        note(pages, entry & PTE_ACCESSED);
        if (entry & PTE_SPECIAL) {
            s.zero += pages;
            return;
        }
        note_folio(m.pages[page_head(m, pte_pfn(entry))], pages);
        s.dirty += entry & PTE_DIRTY ? pages : 0;
    };
    const auto read_table = [&](u64 *pte, u64 nr) {
        const auto of_folio = [](u64 entry) { return pte_present(entry) && !(entry & PTE_SPECIAL); };
        for (u64 i = 0; i < nr;) {
            u64 entry = ptep_get(m, pte + i);
            if (!of_folio(entry)) {
                visit(entry, 1);
                ++i;
                continue;
            }
            // All entries that map one folio in a row.
            const u32 pfn = pte_pfn(entry), head = page_head(m, pfn);
            const page &folio = m.pages[head];
            const u64 first = i, last = std::min<u64>(nr, i + head + (1U << folio.order) - pfn);
            do {
                note(1, entry & PTE_ACCESSED);
                s.dirty += (entry & PTE_DIRTY) != 0;
                if (++i == last) break;
                entry = ptep_get(m, pte + i);
            } while (of_folio(entry) && pte_pfn(entry) == pfn + (i - first));
            note_folio(folio, i - first);
        }
    };
    const auto read = [&](u64 at, u64 next, u64 *pmd) {
        if (pmd_trans_huge(*pmd)) {
            visit(*pmd, HPAGE_PMD_NR);
            if (clear_refs) *pmd &= ~u64{PTE_ACCESSED};
            if (!(*pmd & PTE_SPECIAL)) s.pmd_mapped += HPAGE_PMD_NR;
            return true;
        }
        u64 *pte = pte_offset(m, *pmd, at);
        const u64 nr = (next - at) >> PAGE_SHIFT;
        read_table(pte, nr);
        // A folded block is cleared as a whole (X5), so only after all of it is read.
        if (clear_refs) clear_young_dirty_ptes(m, pte, static_cast<u32>(nr), PTE_ACCESSED);
        return true;
    };
    s.scanned += (end - start) >> PAGE_SHIFT;
    walk_pmd_range(m, mm, start, end, read);
    return entries;
}

} // namespace

vma_smaps smaps_range(machine &m, u32 vma, u64 start, u64 end) {
    vma_smaps s = vma_statistics(m.vmas[vma]);
    const attribute_time_to scope(m, vma);
    m.spend(TIME_monitoring,
            saturating_mul(m.cost().scan_pte, read_range(m, m.vmas[vma].vm_mm, start, end, false, s)));
    return s;
}

vma_smaps smaps(machine &m, u32 vma, bool clear_refs, u32 interval) {
    const vm_area_struct &v = m.vmas[vma];
    vma_smaps s = vma_statistics(v);
    if (interval == 0) return s;
    u64 entries = 0;
    const u64 first = v.vm_start >> PMD_SHIFT, last = (v.vm_end - 1) >> PMD_SHIFT;
    const u64 step = std::clamp<u64>(interval, 1, last - first + 1);
    for (u64 block = first + v.asked.number % step; block <= last; block += step) {
        const u64 start = std::max(v.vm_start, block << PMD_SHIFT);
        const u64 end = step == 1 ? v.vm_end : std::min(v.vm_end, (block + 1) << PMD_SHIFT);
        entries += read_range(m, v.vm_mm, start, end, clear_refs, s);
        if (step == 1) break;
    }
    const attribute_time_to scope(m, vma);
    if (clear_refs) m.spend(TIME_monitoring, saturating_mul(m.cost().scan_pte, entries));
    return s;
}

} // namespace thp
