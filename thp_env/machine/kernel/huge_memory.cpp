#include "huge_memory.hpp"
#include "../hardware/tlb.hpp"
#include "contpte.hpp"
#include "khugepaged.hpp"
#include "lru.hpp"
#include "memcontrol.hpp"
#include "memory.hpp"
#include "page_alloc.hpp"
#include "page_table.hpp"
#include "rmap.hpp"
#include <algorithm>
#include <bit>

namespace thp {

namespace {

constexpr u64 YOUNG_DIRTY = PTE_ACCESSED | PTE_DIRTY;

u64 protection(const vm_area_struct &vma, bool write) {
    if (!(vma.vm_flags & (VM_READ | VM_WRITE))) return PTE_PROTNONE;
    return PTE_PRESENT | (write && (vma.vm_flags & VM_WRITE) ? u64{PTE_RW} : 0);
}

} // namespace

// The huge zero folio is shared; each mm that ever used it holds one reference.
bool mm_get_huge_zero_folio(machine &m, u32 mm) {
    if (m.mms[mm].huge_zero) return true;
    if (m.h->huge_zero_pfn == NIL) {
        const u32 pfn = alloc_pages(m, PMD_ORDER, MIGRATE_UNMOVABLE, GFP_NOWAIT);
        if (pfn == NIL) return false;
        m.h->huge_zero_pfn = pfn;
        std::fill_n(m.contents + pfn, HPAGE_PMD_NR, CONTENT_TOUCHED); // nobody waits for a first access
        m.count(VM_thp_zero_page_alloc);
        m.spend(TIME_zeroing, m.cost().zero_page * HPAGE_PMD_NR);
    }
    m.mms[mm].huge_zero = 1;
    ++m.h->huge_zero_users;
    return true;
}

namespace {

vm_fault map_new_huge_pmd(machine &m, u32 vma, u64 address, u64 *pmd) {
    bool charge_failed = false;
    const vm_area_struct &v = m.vmas[vma];
    const u32 head =
        folio_alloc_charged(m, PMD_ORDER, vma_thp_gfp_mask(m, v), vma_memcg(m, v), &charge_failed);
    if (head == NIL) {
        m.count(VM_thp_fault_fallback);
        m.count(MTHP_anon_fault_fallback, PMD_ORDER);
        if (charge_failed) {
            m.count(VM_thp_fault_fallback_charge);
            m.count(MTHP_anon_fault_fallback_charge, PMD_ORDER);
        }
        return FAULT_FALLBACK;
    }
    m.spend(TIME_zeroing, m.cost().zero_page * HPAGE_PMD_NR);
    const u64 start = align_down(address, PMD_SIZE);
    folio_add_new_anon_rmap(m, head, vma, start, true);
    folio_add_lru_vma(m, head, vma);
    *pmd = mk_pte(head, protection(m.vmas[vma], true) | PTE_PSE | YOUNG_DIRTY);
    m.count(VM_thp_fault_alloc);
    m.count(MTHP_anon_fault_alloc, PMD_ORDER);
    ++m.vmas[vma].faults[PMD_ORDER];
    deferred_split_folio(m, head, false);
    return FAULT_DONE;
}

} // namespace

u32 thp_orders_by_settings(const machine &m, const vm_area_struct &vma) {
    if (vma.vm_flags & (VM_NOHUGEPAGE | VM_FILE)) return 0;
    const u32 disable = m.mms[vma.vm_mm].thp_disable;
    const bool advised = vma.vm_flags & VM_HUGEPAGE;
    if (disable == 1 || (disable == 2 && !advised)) return 0;
    if (feature(m, FEATURE_vma_64k)) return 1U << CONT_PTE_ORDER; // no sysfs; the VMA's mask decides
    const auto permits = [&](u32 mode) { return mode == THP_ALWAYS || (mode == THP_MADVISE && advised); };
    const u32 modes =
        1U << THP_ALWAYS | u32{advised} << THP_MADVISE | u32{permits(m.h->thp_enabled)} << THP_INHERIT;
    u32 orders = 0;
    for (u32 order = 2; order <= PMD_ORDER; ++order) orders |= (modes >> m.h->thp_mode[order] & 1) << order;
    return orders;
}

u32 vma_thp_gfp_mask(const machine &m, const vm_area_struct &vma) {
    const bool advised = vma.vm_flags & VM_HUGEPAGE;
    switch (m.h->thp_defrag) {
    case DEFRAG_ALWAYS:
        return GFP_DIRECT_RECLAIM | (advised ? 0U : u32{GFP_NORETRY});
    case DEFRAG_DEFER:
        return GFP_KSWAPD_RECLAIM;
    case DEFRAG_DEFER_MADVISE:
        return advised ? GFP_DIRECT_RECLAIM : GFP_KSWAPD_RECLAIM;
    case DEFRAG_MADVISE:
        return advised ? GFP_DIRECT_RECLAIM : GFP_NOWAIT;
    default:
        return GFP_NOWAIT;
    }
}

u32 thp_vma_allowable_orders(const machine &m, const vm_area_struct &vma) {
    const u32 own = vma.orders ? vma.orders : m.h->default_orders;
    if (own == 1) return 0; // single pages only
    const u32 orders = thp_orders_by_settings(m, vma);
    if (own == 0) return feature(m, FEATURE_vma_64k) ? 0 : orders;
    return orders & own;
}

// A smaller block around the address lies in the larger one.
u32 thp_vma_suitable_orders(const vm_area_struct &vma, u64 address, u32 orders) {
    orders &= THP_ORDERS_ALL_ANON;
    while (orders) {
        const auto order = static_cast<u32>(std::bit_width(orders)) - 1;
        const u64 size = PAGE_SIZE << order, start = align_down(address, size);
        if (start >= vma.vm_start && start + size <= vma.vm_end) break;
        orders &= ~(1U << order);
    }
    return orders;
}

vm_fault do_huge_pmd_anonymous_page(machine &m, u32 vma, u64 address, u64 *pmd, bool write) {
    if (!thp_vma_suitable_orders(m.vmas[vma], address, 1U << PMD_ORDER)) return FAULT_FALLBACK;
    if (!anon_vma_prepare(m, vma)) return FAULT_OOM;
    khugepaged_enter_vma(m, vma, m.vmas[vma].vm_flags);
    if (!write && m.h->use_zero_page) { // R9
        if (!mm_get_huge_zero_folio(m, m.vmas[vma].vm_mm)) {
            m.count(VM_thp_fault_fallback);
            return FAULT_FALLBACK;
        }
        *pmd =
            mk_pte(m.h->huge_zero_pfn, protection(m.vmas[vma], false) | PTE_PSE | PTE_SPECIAL | PTE_ACCESSED);
        m.spend(TIME_fault, m.cost().fault_zero_page);
        return FAULT_DONE;
    }
    m.spend(TIME_fault, m.cost().fault);
    return map_new_huge_pmd(m, vma, address, pmd);
}

vm_fault do_huge_pmd_wp_page(machine &m, u32 vma, u64 address, u64 *pmd) {
    if (*pmd & PTE_SPECIAL) { // R11: do_huge_zero_wp_pmd does not ask which sizes are on
        m.spend(TIME_fault, m.cost().fault);
        if (map_new_huge_pmd(m, vma, address, pmd) == FAULT_DONE) {
            const u64 start = align_down(address, PMD_SIZE);
            flush_tlb_range(m, m.vmas[vma].vm_mm, start, start + PMD_SIZE, PMD_SHIFT);
            return FAULT_DONE;
        }
    } else if ((m.pages[pte_pfn(*pmd)].flags & PG_anon_exclusive) ||
               m.pages[pte_pfn(*pmd)].refcount == 1) { // R28
        m.pages[pte_pfn(*pmd)].flags |= PG_anon_exclusive;
        *pmd |= PTE_RW | YOUNG_DIRTY;
        m.spend(TIME_fault, m.cost().fault_reuse);
        return FAULT_DONE;
    }
    return split_huge_pmd(m, vma, pmd, address) ? FAULT_FALLBACK : FAULT_OOM;
}

bool split_huge_pmd(machine &m, u32 vma, u64 *pmd, u64 address) {
    const u64 old = *pmd, start = align_down(address, PMD_SIZE);
    const u32 table = table_page_alloc(m, GFP_ATOMIC); // Linux: the deposited one
    if (table == NIL) return false;
    m.count(VM_thp_split_pmd);
    m.spend(TIME_splitting, m.cost().split_pmd);
    u64 *pte = m.page_tables + u64{table} * PTRS_PER_TABLE;
    const u32 mm = m.vmas[vma].vm_mm;
    if (old & PTE_SPECIAL) { // the huge zero page: 512 base zero pages
        const u64 bits = (old & (PTE_PRESENT | PTE_PROTNONE | PTE_ACCESSED)) | PTE_SPECIAL;
        for (u32 i = 0; i < HPAGE_PMD_NR; ++i) pte[i] = mk_pte(m.h->zero_pfn, bits);
    } else {
        const u32 head = pte_pfn(old);
        const u64 bits = old & (PTE_PRESENT | PTE_PROTNONE | PTE_RW | YOUNG_DIRTY);
        const bool exclusive = m.pages[head].flags & PG_anon_exclusive;
        for (u32 i = 0; i < HPAGE_PMD_NR; ++i) {
            if (exclusive) m.pages[head + i].flags |= PG_anon_exclusive;
        }
        set_ptes(m, mm, start, pte, mk_pte(head, bits), HPAGE_PMD_NR);
        folio_get(m, head, HPAGE_PMD_NR - 1);
        folio_add_anon_rmap_ptes(m, head, HPAGE_PMD_NR, mm);
        folio_remove_rmap_pmd(m, head, mm);
    }
    *pmd = mk_pte(table, PTE_PRESENT | PTE_RW);
    flush_tlb_range(m, mm, start, start + PMD_SIZE, PMD_SHIFT);
    return true;
}

bool split_huge_pmd_if_needed(machine &m, u32 vma, u64 address) {
    if (address % PMD_SIZE == 0) return true;
    u64 *pmd = pmd_offset(m, m.vmas[vma].vm_mm, address);
    return !pmd || !pmd_trans_huge(*pmd) || split_huge_pmd(m, vma, pmd, address);
}

void zap_huge_pmd(machine &m, u32 vma, u64 *pmd) {
    const u64 old = *pmd;
    const u32 mm = m.vmas[vma].vm_mm;
    *pmd = 0;
    m.spend(TIME_unmapping, m.cost().zap_pmd);
    if (old & PTE_SPECIAL) return;
    const u32 head = pte_pfn(old);
    m.mms[mm].rss -= HPAGE_PMD_NR;
    folio_remove_rmap_pmd(m, head, mm);
    folio_put(m, head, 1);
}

void change_huge_pmd(machine &m, const vm_area_struct &vma, u64 *pmd) {
    const bool zero = *pmd & PTE_SPECIAL;
    const bool writable = !zero && (m.pages[pte_pfn(*pmd)].flags & PG_anon_exclusive); // R29
    *pmd = (*pmd & ~(PTE_PRESENT | PTE_PROTNONE | PTE_RW)) | protection(vma, writable);
    m.spend(TIME_syscall, m.cost().change_pte);
}

namespace {

// get_deferred_split_queue
mem_cgroup &queue_of(const machine &m, u32 head) { return m.memcgs[folio_memcg(m, head)]; }

void deferred_split_add_tail(machine &m, u32 head) {
    mem_cgroup &q = queue_of(m, head);
    m.pages[head].deferred_prev = q.deferred_tail;
    (q.deferred_tail != NIL ? m.pages[q.deferred_tail].deferred_next : q.deferred_head) = head;
    q.deferred_tail = head;
    ++q.deferred_len;
}

bool deferred_split_queued(const machine &m, u32 head) {
    const page &folio = m.pages[head];
    return folio.deferred_next != NIL || folio.deferred_prev != NIL ||
           queue_of(m, head).deferred_head == head;
}

void deferred_split_del(machine &m, u32 head) {
    page &folio = m.pages[head];
    mem_cgroup &q = queue_of(m, head);
    if (!deferred_split_queued(m, head)) return;
    (folio.deferred_prev != NIL ? m.pages[folio.deferred_prev].deferred_next : q.deferred_head) =
        folio.deferred_next;
    (folio.deferred_next != NIL ? m.pages[folio.deferred_next].deferred_prev : q.deferred_tail) =
        folio.deferred_prev;
    folio.deferred_next = folio.deferred_prev = NIL;
    --q.deferred_len;
}

} // namespace

void deferred_split_folio(machine &m, u32 head, bool partially_mapped) {
    page &folio = m.pages[head];
    if (folio.order <= 1) return;
    if (partially_mapped && !(folio.flags & PG_partially_mapped)) {
        folio.flags |= PG_partially_mapped;
        if (folio.order == PMD_ORDER) m.count(VM_thp_deferred_split_page);
        m.count(MTHP_split_deferred, folio.order);
        m.count(MTHP_nr_anon_partially_mapped, folio.order);
    }
    if (!deferred_split_queued(m, head)) deferred_split_add_tail(m, head);
}

void folio_unqueue_deferred_split(machine &m, u32 head) {
    page &folio = m.pages[head];
    if (folio.order <= 1) return;
    if (folio.flags & PG_partially_mapped) {
        folio.flags &= ~u32{PG_partially_mapped};
        m.count(MTHP_nr_anon_partially_mapped, folio.order, -1);
    }
    deferred_split_del(m, head);
}

namespace {

// R22
bool thp_underused(const machine &m, u32 head) {
    const u32 limit = m.h->max_ptes_none;
    if (!m.h->shrink_underused || limit == HPAGE_PMD_NR - 1 || (m.pages[head].flags & PG_mlocked))
        return false;
    const u8 *content = m.contents + head;
    const auto zero =
        std::count_if(content, content + HPAGE_PMD_NR, [](u8 c) { return !(c & CONTENT_MASK); });
    return static_cast<u32>(zero) > limit;
}

} // namespace

u32 deferred_split_scan(machine &m, u32 memcg, u32 nr) {
    const mem_cgroup &group = m.memcgs[memcg];
    u32 remaining = std::min(nr, group.deferred_len), split = 0;
    for (; remaining > 0; --remaining) {
        m.host.work();
        const u32 head = group.deferred_head;
        const bool flagged = m.pages[head].flags & PG_partially_mapped,
                   underused = !flagged && thp_underused(m, head);
        const bool done = (flagged || underused) && split_folio(m, head) == 0;
        if (done && underused) m.count(VM_thp_underused_split_page);
        if (!done) deferred_split_del(m, head);
        if (!done && flagged) deferred_split_add_tail(m, head); // waits for the next scan
        split += done;
    }
    if (m.h->huge_zero_users == 0 && m.h->huge_zero_pfn != NIL) { // shrink_huge_zero_folio_scan
        free_pages(m, m.h->huge_zero_pfn, PMD_ORDER);
        m.h->huge_zero_pfn = NIL;
    }
    return split;
}

} // namespace thp
