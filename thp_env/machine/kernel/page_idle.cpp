#include "page_idle.hpp"
#include "contpte.hpp"
#include "page_alloc.hpp"
#include "page_table.hpp"

namespace thp {

void test_and_clear_young(machine &m, u32 mm, const u64 *addresses, u64 n, u8 *bits) {
    const u64 *last = nullptr;
    u8 young_bits = 0;
    u64 read = 0;
    for (u64 i = 0; i < n; ++i) {
        u64 *entry = pmd_offset(m, mm, addresses[i]);
        const bool huge = entry && pmd_trans_huge(*entry);
        if (entry && !huge) entry = pte_none(*entry) ? nullptr : pte_offset(m, *entry, addresses[i]);
        if (entry && !huge && (*entry & PTE_CONT)) entry = contpte_align_down(m, entry);
        if (!entry || !pte_present(*entry)) {
            bits[i] = 0;
            continue;
        }
        if (entry != last) {
            last = entry;
            ++read;
            const u64 value = huge ? *entry : ptep_get(m, entry);
            young_bits =
                static_cast<u8>(YOUNG_MAPPED | (value & PTE_ACCESSED ? YOUNG_ACCESSED : 0) |
                                (huge ? YOUNG_PMD : 0) | (value & PTE_SPECIAL ? YOUNG_ZERO_PAGE : 0));
            if (huge) {
                *entry &= ~u64{PTE_ACCESSED};
            } else {
                ptep_test_and_clear_young(m, entry);
            }
        }
        bits[i] = young_bits;
    }
    m.spend(TIME_monitoring, saturating_mul(m.cost().scan_pte, read));
}

namespace {

u8 bits_of(u64 entry, bool huge) {
    return static_cast<u8>(YOUNG_MAPPED | (entry & PTE_ACCESSED ? YOUNG_ACCESSED : 0) |
                           (entry & PTE_DIRTY ? YOUNG_DIRTY : 0) | (huge ? YOUNG_PMD : 0) |
                           (entry & PTE_CONT ? YOUNG_CONT : 0) | (entry & PTE_SPECIAL ? YOUNG_ZERO_PAGE : 0));
}

// The entries of one block below a page table; returns how many were read.
u32 read_ptes(machine &m, u64 *pte, bool clear, u8 *bits) {
    const u32 nr = *pte & PTE_CONT ? 1 : CONT_PTES;
    for (u32 i = 0; i < nr; ++i) {
        if (!pte_present(pte[i])) continue;
        *bits |= bits_of(ptep_get(m, pte + i), false);
        if (clear) ptep_test_and_clear_young(m, pte + i);
    }
    return nr;
}

} // namespace

void read_blocks(machine &m, u32 mm, u64 start, u64 n, bool clear, u8 *bits) {
    u64 read = 0;
    const u64 *last = nullptr;
    u8 young_bits = 0;
    for (u64 i = 0; i < n; ++i) {
        const u64 at = align_down(start, CONT_PTE_SIZE) + i * CONT_PTE_SIZE;
        u64 *pmd = pmd_offset(m, mm, at);
        bits[i] = 0;
        if (!pmd || pte_none(*pmd)) continue;
        if (!pmd_trans_huge(*pmd)) {
            read += read_ptes(m, pte_offset(m, *pmd, at), clear, bits + i);
            continue;
        }
        if (pmd != last) {
            last = pmd;
            ++read;
            young_bits = bits_of(*pmd, true);
            if (clear) *pmd &= ~u64{PTE_ACCESSED};
        }
        bits[i] = young_bits;
    }
    m.spend(TIME_monitoring, m.cost().scan_pte * read);
}

u64 count_zero_pages(machine &m, u32 mm, u64 start, u64 end) {
    u64 zero = 0, used = 0;
    walk_pmd_range(m, mm, start, end, [&](u64 at, u64 next, const u64 *) {
        for (; at < next; at += PAGE_SIZE) {
            const u64 entry = follow_entry(m, mm, at);
            if (!pte_present(entry) || (entry & PTE_SPECIAL)) continue;
            const u32 pfn = pte_pfn(entry) + (entry & PTE_PSE ? pte_index(at) : 0);
            if (m.pages[page_head(m, pfn)].order == 0) continue;
            const bool empty = (m.contents[pfn] & CONTENT_MASK) == 0;
            zero += empty;
            used += !empty;
        }
        return true;
    });
    m.spend(TIME_monitoring, saturating_add(saturating_mul(m.cost().zero_page, zero),
                                            saturating_mul(m.cost().scan_pte, used)));
    return zero;
}

} // namespace thp
