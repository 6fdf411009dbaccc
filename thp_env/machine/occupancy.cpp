#include "occupancy.hpp"
#include "kernel/page_table.hpp"
#include <algorithm>

namespace thp {

namespace {

// What the entries of one page table map. Pages of one folio follow each other, so it is looked up once.
void orders_of_table(machine &m, const u64 *pte, u64 nr, i8 *out) {
    u32 expected = 0;  // the frame that would go on with the folio of the entry before
    u32 remaining = 0; // frames of that folio from there on
    i8 order = MAPS_NOTHING;
    for (u64 i = 0; i < nr; ++i) {
        if (!pte_present(pte[i])) {
            out[i] = MAPS_NOTHING;
            remaining = 0;
        } else if (pte[i] & PTE_SPECIAL) {
            out[i] = MAPS_ZEROS;
            remaining = 0;
        } else {
            const u32 pfn = pte_pfn(pte[i]);
            if (remaining == 0 || pfn != expected) {
                const u32 head = page_head(m, pfn);
                const page &folio = m.pages[head];
                order = folio.flags & PG_file ? MAPS_NOTHING : static_cast<i8>(folio.order);
                remaining = head + (1U << folio.order) - pfn;
            }
            out[i] = order;
            expected = pfn + 1;
            --remaining;
        }
    }
}

// Calls visit(address, orders of the 2^order pages) for the aligned blocks in a range of one page table.
template <typename Visit> void each_block(u64 start, u64 end, const i8 *orders, u32 order, Visit visit) {
    const u64 size = PAGE_SIZE << order;
    for (u64 at = align_up(start, size); at + size <= end; at += size)
        visit(at, orders + ((at - start) >> PAGE_SHIFT));
}

// Calls visit(start, end, orders of the pages) for the part of a range under each PMD that is not none: no
// aligned block of 2M or less reaches beyond it.
template <typename Visit> void each_pmd(machine &m, u32 mm, u64 start, u64 end, Visit visit) {
    i8 orders[HPAGE_PMD_NR];
    walk_pmd_range(m, mm, start, end, [&](u64 at, u64 next, const u64 *) {
        m.host.work();
        mapped_orders(m, mm, at, next, orders);
        visit(at, next, orders);
        return true;
    });
}

} // namespace

void mapped_orders(machine &m, u32 mm, u64 start, u64 end, i8 *out) {
    std::fill_n(out, (end - start) >> PAGE_SHIFT, MAPS_NOTHING);
    walk_pmd_range(m, mm, start, end, [&](u64 at, u64 next, const u64 *pmd) {
        i8 *const part = out + ((at - start) >> PAGE_SHIFT);
        const u64 nr = (next - at) >> PAGE_SHIFT;
        if (pmd_is_table(*pmd)) {
            orders_of_table(m, pte_offset(m, *pmd, at), nr, part);
        } else if (pmd_trans_huge(*pmd)) {
            std::fill_n(part, nr, *pmd & PTE_SPECIAL ? MAPS_ZEROS : static_cast<i8>(PMD_ORDER));
        }
        return true;
    });
}

std::vector<block_occupancy> occupied_blocks(machine &m, u32 mm, u64 start, u64 end) {
    std::vector<block_occupancy> blocks;
    each_pmd(m, mm, start, end, [&](u64 from, u64 to, const i8 *orders) {
        each_block(from, to, orders, PMD_ORDER, [&](u64 at, const i8 *page) {
            block_occupancy block{at, 0, 0};
            for (u32 i = 0; i < HPAGE_PMD_NR; ++i) {
                block.mapped += page[i] >= 0;
                block.huge += page[i] == static_cast<i8>(PMD_ORDER);
            }
            if (block.mapped) blocks.push_back(block);
        });
    });
    return blocks;
}

void occupancy_by_size(machine &m, u32 mm, u64 start, u64 end, size_occupancy out[PMD_ORDER + 1]) {
    each_pmd(m, mm, start, end, [&](u64 from, u64 to, const i8 *orders) {
        for (u32 order = 0; order <= PMD_ORDER; ++order) {
            size_occupancy &size = out[order];
            each_block(from, to, orders, order, [&](u64, const i8 *page) {
                u32 mapped = 0, smaller = 0;
                for (u32 i = 0; i < (1U << order); ++i) {
                    mapped += page[i] >= 0;
                    smaller += page[i] < static_cast<i8>(order);
                }
                const bool partial = mapped && smaller;
                size.begun += mapped != 0;
                size.partial += partial;
                size.mapped += partial ? mapped : 0;
            });
        }
    });
}

std::vector<block_with_hole> blocks_with_holes(machine &m, u32 mm, u64 start, u64 end) {
    std::vector<block_with_hole> of_order[PMD_ORDER + 1], found;
    each_pmd(m, mm, start, end, [&](u64 from, u64 to, const i8 *orders) {
        for (u32 order = 2; order <= PMD_ORDER; ++order) {
            each_block(from, to, orders, order, [&](u64 at, const i8 *page) {
                block_with_hole block{at, order, 0, 0, 0};
                for (u32 i = 0; i < (1U << order); ++i) {
                    block.held += page[i] == static_cast<i8>(order);
                    block.nothing += page[i] == MAPS_NOTHING;
                }
                if (block.held && block.nothing) of_order[order].push_back(block);
            });
        }
    });
    for (const auto &blocks : of_order) found.insert(found.end(), blocks.begin(), blocks.end());
    return found;
}

} // namespace thp
