#include "collapse.hpp"
#include "../hardware/tlb.hpp"
#include "contpte.hpp"
#include "huge_memory.hpp"
#include "huge_memory_bpf.hpp"
#include "khugepaged.hpp"
#include "lru.hpp"
#include "madvise.hpp"
#include "memory.hpp"
#include "mmap.hpp"
#include "page_alloc.hpp"
#include "page_table.hpp"
#include "rmap.hpp"
#include "swap.hpp"
#include <algorithm>
#include <bit>
#include <cerrno>

namespace thp {

bool allowable(const machine &m, const vm_area_struct &v, bool forced) {
    if (v.anon_vma == NIL || (v.vm_flags & (VM_NOHUGEPAGE | VM_FILE))) return false;
    if (align_up(v.vm_start, PMD_SIZE) + PMD_SIZE > v.vm_end) return false;
    if (forced) return m.mms[v.vm_mm].thp_disable != 1;
    return thp_vma_allowable_orders(m, v) & (feature(m, FEATURE_collapse_mthp) ? ~0U : 1U << PMD_ORDER);
}

u64 blocks_at(machine &m, u32 mm, u64 address) {
    constexpr u64 PUD_SIZE = 1ULL << PUD_SHIFT;
    if (pmd_offset(m, mm, address)) return 1;
    return (align_down(address, PUD_SIZE) + PUD_SIZE - address) >> PMD_SHIFT;
}

namespace {

constexpr u32 KHUGEPAGED_MIN_MTHP_ORDER = 2;

u32 references(const machine &m, u32 head) {
    const page &folio = m.pages[head];
    const u32 mapped = static_cast<u32>(folio.order ? folio.large_mapcount : folio.mapcount);
    return mapped + (folio.flags & PG_swapcache ? 1 : 0);
}

bool in_use(const machine &m, u32 head, u64 *pte) {
    return (ptep_get(m, pte) & PTE_ACCESSED) || (m.pages[head].flags & PG_referenced);
}

// hpage_collapse_scan_pmd: whether the range is worth it and nothing is in the way.
scan_result scan_ptes(machine &m, u64 *pte, bool khugepaged, u32 max_ptes_none, u32 *unmapped) {
    u32 none = 0, shared = 0, referenced = 0;
    const auto exceeds = [&](u32 n, u32 limit, vm_event event) {
        if (!khugepaged || n <= limit) return false;
        m.count(event);
        return true;
    };
    for (u32 i = 0; i < HPAGE_PMD_NR; ++i) {
        if (!pte_none(pte[i]) && !pte_present(pte[i])) { // also a guard marker, which swap-in stumbles over
            if (exceeds(++*unmapped, m.h->max_ptes_swap, VM_thp_scan_exceed_swap_pte)) return EXCEED;
            continue;
        }
        if (pte_none(pte[i]) || (pte[i] & PTE_SPECIAL)) {
            if (exceeds(++none, max_ptes_none, VM_thp_scan_exceed_none_pte)) return EXCEED;
            continue;
        }
        const u32 head = page_head(m, pte_pfn(pte[i]));
        if (folio_maybe_mapped_shared(m, head) &&
            exceeds(++shared, m.h->max_ptes_shared, VM_thp_scan_exceed_share_pte))
            return EXCEED;
        if (m.pages[head].refcount != static_cast<i32>(references(m, head))) return PAGE_COUNT; // pinned
        referenced += in_use(m, head, pte + i);
    }
    if (khugepaged && (referenced == 0 || (*unmapped && referenced < HPAGE_PMD_NR / 2)))
        return LACK_REFERENCED;
    return SUCCEED;
}

// __collapse_huge_page_swapin: without the accounting of a fault.
bool swap_in(machine &m, u32 vma, u64 start, u64 *pte) {
    const u64 majflt = m.mms[m.vmas[vma].vm_mm].majflt;
    bool done = true;
    for (u32 i = 0; i < HPAGE_PMD_NR && done; ++i) {
        if (pte_none(pte[i]) || pte_present(pte[i])) continue;
        done = is_swap_pte(pte[i]) &&
               do_swap_page(m, vma, start + (u64{i} << PAGE_SHIFT), pte + i, false) == FAULT_DONE;
    }
    m.mms[m.vmas[vma].vm_mm].majflt = majflt;
    return done;
}

// __collapse_huge_page_copy: the old pages go in batches, so that whole folios are not queued for splitting.
void copy_and_release(machine &m, u32 mm, u64 start, u64 *pte, u32 count, u32 to) {
    m.spend(TIME_copying, m.cost().collapse);
    for (u32 i = 0; i < count;) {
        const u64 at = start + (u64{i} << PAGE_SHIFT);
        if (pte_none(pte[i]) || (pte[i] & PTE_SPECIAL)) { // clear_user_highpage
            clear_full_ptes(m, mm, at, pte + i++, 1);
            m.spend(TIME_zeroing, m.cost().zero_page);
            continue;
        }
        const u32 pfn = pte_pfn(pte[i]), head = page_head(m, pfn);
        const u32 nr = folio_pte_batch(m, pte + i, count - i);
        std::copy_n(m.contents + pfn, nr, m.contents + to + i);
        unmap_folio_ptes(m, mm, at, pte + i, nr);
        free_swap_cache(m, head);
        m.spend(TIME_copying, m.cost().copy_page * nr + m.cost().collapse_folio);
        m.spend(TIME_unmapping, m.cost().zap_folio + m.cost().zap_pte * nr);
        i += nr;
    }
    const auto touched = std::count_if(m.contents + to, m.contents + to + count,
                                       [](u8 content) { return content & CONTENT_TOUCHED; });
    mod_memory(m, VM_nr_untouched, -touched);
}

// GFP_TRANSHUGE, or GFP_TRANSHUGE_LIGHT where khugepaged/defrag says so.
u32 alloc_hugepage_gfpmask(const machine &m, bool khugepaged) {
    return !khugepaged || m.h->khugepaged_defrag ? GFP_DIRECT_RECLAIM : GFP_NOWAIT;
}

scan_result collapse_huge_page(machine &m, u32 vma, u64 start, u64 *pmd, u32 unmapped, bool khugepaged) {
    const u32 mm = m.vmas[vma].vm_mm;
    u64 *pte = pte_offset(m, *pmd, start);
    bool charge_failed = false;
    const u32 head = folio_alloc_charged(m, PMD_ORDER, alloc_hugepage_gfpmask(m, khugepaged), m.mms[mm].memcg,
                                         &charge_failed);
    if (head == NIL) {
        m.count(charge_failed ? VM_thp_collapse_alloc : VM_thp_collapse_alloc_failed);
        return charge_failed ? CHARGE_FAIL : ALLOC_FAIL;
    }
    m.count(VM_thp_collapse_alloc);
    const bool complete = !unmapped || swap_in(m, vma, start, pte);
    if (!complete || std::any_of(pte, pte + HPAGE_PMD_NR, is_swap_pte)) { // reclaim was faster
        folio_put(m, head, 1);
        return FAIL;
    }
    copy_and_release(m, mm, start, pte, HPAGE_PMD_NR, head);
    free_pte_table(m, pmd);
    folio_add_new_anon_rmap(m, head, vma, start, true);
    folio_add_lru_vma(m, head, vma);
    *pmd = mk_pte(head, vma_pte_bits(m.vmas[vma], true) | PTE_PSE | PTE_ACCESSED | PTE_DIRTY);
    deferred_split_folio(m, head, false);
    flush_tlb_range(m, mm, start, start + PMD_SIZE);
    return SUCCEED;
}

// __collapse_huge_page_isolate below 2M: nothing swapped, nothing shared.
scan_result isolate_ptes(machine &m, u64 *pte, u32 order, u32 max_ptes_none, bool khugepaged) {
    u32 none = 0, referenced = 0;
    const auto exceed = [&](mthp_stat stat) {
        m.count(stat, order);
        return EXCEED;
    };
    for (u32 i = 0; i < (1U << order); ++i) {
        if (is_swap_pte(pte[i])) return exceed(MTHP_collapse_exceed_swap_pte);
        if (pte_none(pte[i]) || (pte_present(pte[i]) && (pte[i] & PTE_SPECIAL))) {
            if (++none > max_ptes_none) return exceed(MTHP_collapse_exceed_none_pte);
            continue;
        }
        if (!pte_present(pte[i])) return FAIL;
        const u32 head = page_head(m, pte_pfn(pte[i]));
        if (m.pages[head].order >= order) return PTE_MAPPED;
        if (folio_maybe_mapped_shared(m, head)) return exceed(MTHP_collapse_exceed_shared_pte);
        if (m.pages[head].refcount != static_cast<i32>(references(m, head))) return PAGE_COUNT;
        referenced += in_use(m, head, pte + i);
    }
    return referenced || !khugepaged ? SUCCEED : LACK_REFERENCED;
}

scan_result collapse_mthp_page(machine &m, u32 vma, u64 start, u64 *pte, u32 order, u32 max_ptes_none,
                               bool khugepaged) {
    const u32 mm = m.vmas[vma].vm_mm, nr = 1U << order;
    bool charge_failed = false;
    const u32 head =
        folio_alloc_charged(m, order, alloc_hugepage_gfpmask(m, khugepaged), m.mms[mm].memcg, &charge_failed);
    m.count(head == NIL && !charge_failed ? MTHP_collapse_alloc_failed : MTHP_collapse_alloc, order);
    if (head == NIL) return charge_failed ? CHARGE_FAIL : ALLOC_FAIL;
    if (const scan_result result = isolate_ptes(m, pte, order, max_ptes_none, khugepaged);
        result != SUCCEED) {
        folio_put(m, head, 1);
        return result;
    }
    copy_and_release(m, mm, start, pte, nr, head);
    map_anon_folio_pte(m, vma, head, start, pte);
    folio_add_lru_vma(m, head, vma);
    flush_tlb_range(m, mm, start, start + (PAGE_SIZE << order));
    return SUCCEED;
}

// Below 2M only the two ends of max_ptes_none mean something: nothing empty, or anything. What lies between
// counts as 0, with a warning.
u32 collapse_max_ptes_none(machine &m, u32 order) {
    const u32 setting = m.h->max_ptes_none;
    if (order == PMD_ORDER || setting == 0) return setting;
    if (setting == HPAGE_PMD_NR - 1) return (1U << order) - 1;
    m.h->warned |= WARN_mthp_max_ptes_none;
    return 0;
}

// mthp_collapse, as posted in its 19th version, for 7.2: at each offset the largest allowed size that is
// occupied enough, else a smaller one.
scan_result mthp_collapse(machine &m, u32 vma, u64 start, u64 *pmd, u32 unmapped, u32 orders) {
    u64 *pte = pte_offset(m, *pmd, start);
    scan_result last = FAIL;
    u32 order = PMD_ORDER;
    for (u32 offset = 0; offset < HPAGE_PMD_NR;) {
        const u32 nr = 1U << order;
        bool advance = false;
        if (orders & nr) {
            const u32 limit = collapse_max_ptes_none(m, order);
            const auto occupied = std::count_if(pte + offset, pte + offset + nr, [order](u64 entry) {
                return (pte_present(entry) && !(entry & PTE_SPECIAL)) ||
                       (order == PMD_ORDER && is_swap_pte(entry));
            });
            if (static_cast<u32>(occupied) + limit >= nr) {
                const u64 at = start + (u64{offset} << PAGE_SHIFT);
                const bool pmd_order = order == PMD_ORDER;
                last = pmd_order ? collapse_huge_page(m, vma, start, pmd, unmapped, true)
                                 : collapse_mthp_page(m, vma, at, pte + offset, order, limit, true);
                if (pmd_order && last == SUCCEED) return SUCCEED;
                advance = last == SUCCEED || last == PTE_MAPPED;
            }
        }
        if (!advance && order > KHUGEPAGED_MIN_MTHP_ORDER && (orders & (nr - 1))) {
            --order;
            continue;
        }
        offset += nr;
        order = std::min<u32>(static_cast<u32>(std::countr_zero(offset)), PMD_ORDER);
    }
    return last;
}

} // namespace

scan_result collapse(machine &m, u32 vma, u64 start, bool khugepaged) {
    const attribute_time_to scope(m, vma);
    u64 *pmd = pmd_offset(m, m.vmas[vma].vm_mm, start);
    if (!pmd) return PMD_NULL;
    if (pte_none(*pmd)) return PMD_NONE;
    if (pmd_trans_huge(*pmd)) return PMD_MAPPED;
    u32 unmapped = 0;
    const u32 orders = thp_get_orders(m, m.vmas[vma], start, TVA_KHUGEPAGED);
    const bool mthp = khugepaged && feature(m, FEATURE_collapse_mthp) && (orders & ~(1U << PMD_ORDER));
    const u32 max_ptes_none = mthp ? HPAGE_PMD_NR : m.h->max_ptes_none; // each size asks for itself
    m.spend(TIME_monitoring, m.cost().scan_pte * HPAGE_PMD_NR);
    const scan_result result = scan_ptes(m, pte_offset(m, *pmd, start), khugepaged, max_ptes_none, &unmapped);
    if (result != SUCCEED) return result;
    if (mthp) return mthp_collapse(m, vma, start, pmd, unmapped, orders);
    return collapse_huge_page(m, vma, start, pmd, unmapped, khugepaged);
}

namespace {

int errno_of(scan_result result) {
    switch (result) {
    case ALLOC_FAIL:
        return -ENOMEM;
    case EXCEED:
    case CHARGE_FAIL:
        return -EBUSY;
    case PAGE_COUNT:
        return -EAGAIN;
    default:
        return -EINVAL;
    }
}

} // namespace

int madvise_collapse(machine &m, u32 vma, u64 start, u64 end) {
    if (!allowable(m, m.vmas[vma], true)) return -EINVAL;
    // A range that holds no edge of a 2M block has fewer than no blocks, which are not all collapsed.
    scan_result last = align_up(start, PMD_SIZE) > align_down(end, PMD_SIZE) ? FAIL : SUCCEED;
    for (u64 at = align_up(start, PMD_SIZE); at + PMD_SIZE <= end; at += PMD_SIZE) {
        const scan_result result = collapse(m, vma, at, false);
        if (result == SUCCEED || result == PMD_MAPPED) continue;
        last = result;
        if (result == PMD_NULL) at += (blocks_at(m, m.vmas[vma].vm_mm, at) - 1) * PMD_SIZE;
        if (result == ALLOC_FAIL || result == CHARGE_FAIL || result == FAIL || result == EXCEED ||
            result == PMD_NONE)
            break;
    }
    return last == SUCCEED ? 0 : errno_of(last);
}

namespace {

// One aligned block of a size below 2M.
scan_result collapse_block(machine &m, u32 vma, u64 start, u32 order) {
    u64 *pmd = pmd_offset(m, m.vmas[vma].vm_mm, start);
    if (!pmd || pte_none(*pmd)) return SUCCEED;
    if (pmd_trans_huge(*pmd)) return PMD_MAPPED;
    const u32 nr = 1U << order;
    u64 *pte = pte_offset(m, *pmd, start);
    m.spend(TIME_monitoring, m.cost().scan_pte * nr);
    const auto there = [](u64 entry) { return pte_present(entry) && !(entry & PTE_SPECIAL); };
    if (std::none_of(pte, pte + nr, there)) return SUCCEED;
    return collapse_mthp_page(m, vma, start, pte, order, nr - 1, false);
}

} // namespace

int collapse_range(machine &m, u32 mm, u64 start, u64 end, u32 order) {
    if (order == PMD_ORDER) return do_madvise(m, mm, start, end - start, MADV_COLLAPSE);
    const u64 size = PAGE_SIZE << order;
    scan_result last = SUCCEED;
    for (u64 at = align_up(start, size); at + size <= end; at += size) {
        m.host.work();
        const u32 v = vma_lookup(m, mm, at);
        if (v == NIL) return -ENOMEM;
        const vm_area_struct &vma = m.vmas[v];
        const bool disabled = m.mms[mm].thp_disable == 1 || (vma.vm_flags & (VM_NOHUGEPAGE | VM_FILE));
        if (at + size > vma.vm_end) continue;
        if (disabled) return -EINVAL;
        if (vma.anon_vma == NIL) continue;
        if (!pmd_offset(m, mm, at)) { // on to the last block before the next table
            const u64 next = std::min(align_down(at, 1ULL << PUD_SHIFT) + (1ULL << PUD_SHIFT), vma.vm_end);
            at = align_down(next, size) - size;
            continue;
        }
        const attribute_time_to scope(m, v);
        const scan_result result = collapse_block(m, v, at, order);
        if (result != SUCCEED && result != PMD_MAPPED && result != PTE_MAPPED) last = result;
        if (result == ALLOC_FAIL || result == CHARGE_FAIL) break;
    }
    return last == SUCCEED ? 0 : errno_of(last);
}

} // namespace thp
