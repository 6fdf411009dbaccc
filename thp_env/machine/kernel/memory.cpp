#include "memory.hpp"
#include "../hardware/tlb.hpp"
#include "cont_pte_fault.hpp"
#include "cont_pte_hugepage.hpp"
#include "filemap.hpp"
#include "huge_memory_bpf.hpp"
#include "kswapd.hpp"
#include "lru.hpp"
#include "madvise.hpp"
#include "memcontrol.hpp"
#include "page_alloc.hpp"
#include "page_table.hpp"
#include "rmap.hpp"
#include "swap.hpp"
#include <algorithm>
#include <bit>

namespace thp {

namespace {

// R4: the largest allowed order whose block lies in the VMA and is empty; on failure the next lower one.
u32 alloc_anon_folio(machine &m, const vm_area_struct &vma, u64 address, const u64 *table, u32 *order,
                     bool zero_pages) {
    u32 orders = thp_get_orders(m, vma, address, TVA_PAGEFAULT) & ~(1U << PMD_ORDER);
    orders = thp_vma_suitable_orders(vma, address, orders);
    const u32 index = pte_index(address), gfp = vma_thp_gfp_mask(m, vma);
    bool fits = false;
    while (orders) {
        *order = static_cast<u32>(std::bit_width(orders)) - 1;
        const u32 nr = 1U << *order;
        fits = fits || pte_range_replaceable(table + (index & ~(nr - 1)), nr, zero_pages);
        if (fits) {
            bool charge_failed = false;
            const u32 head = folio_alloc_charged(m, *order, gfp, vma_memcg(m, vma), &charge_failed);
            if (head != NIL) return head;
            m.count(MTHP_anon_fault_fallback, *order);
            if (charge_failed) m.count(MTHP_anon_fault_fallback_charge, *order);
        }
        orders &= ~(1U << *order);
    }
    *order = 0;
    return folio_prealloc(m, vma_memcg(m, vma));
}

// A write where nothing stands or, with zero_pages, in place of all zero pages of the block (zero_cow: R.
// Roberts' first RFC, April 2023, "Convert zero page to large folios on write").
vm_fault map_new_folio(machine &m, u32 vma, u64 address, u64 *pte, bool zero_pages) {
    if (!anon_vma_prepare(m, vma)) return FAULT_OOM;
    const vm_area_struct &v = m.vmas[vma];
    u32 order = 0;
    const u32 head = alloc_anon_folio(m, v, address, pte - pte_index(address), &order, zero_pages);
    if (head == NIL) return FAULT_OOM;
    const u32 nr = 1U << order;
    const u64 start = align_down(address, PAGE_SIZE << order), end = start + (PAGE_SIZE << order);
    u64 *first = pte - ((address - start) >> PAGE_SHIFT);
    m.spend(TIME_fault, m.cost().fault);
    m.spend(TIME_zeroing, m.cost().zero_page * nr);
    if (order) m.count(MTHP_anon_fault_alloc, order);
    for (u64 at = start; zero_pages && at < end; at += PAGE_SIZE)
        clear_full_ptes(m, v.vm_mm, at, first + ((at - start) >> PAGE_SHIFT), 1);
    map_anon_folio_pte(m, vma, head, start, first);
    folio_add_lru_vma(m, head, vma);
    if (zero_pages) flush_tlb_range(m, v.vm_mm, start, end);
    ++m.vmas[vma].faults[order];
    return FAULT_DONE;
}

vm_fault do_anonymous_page(machine &m, u32 vma, u64 address, u64 *pmd, bool write) {
    if (!pte_alloc(m, pmd)) return FAULT_OOM;
    const vm_area_struct &v = m.vmas[vma];
    u64 *pte = pte_offset(m, *pmd, address);
    if (!write && feature(m, FEATURE_zero_64k) && set_cont_pte_huge_zero_page(m, vma, address, pte)) {
        return FAULT_DONE;
    }
    if (!write) { // R8
        *pte = mk_pte(m.h->zero_pfn, vma_pte_bits(v, false) | PTE_SPECIAL | PTE_ACCESSED);
        m.spend(TIME_fault, m.cost().fault_zero_page);
        return FAULT_DONE;
    }
    return map_new_folio(m, vma, address, pte, false);
}

// R10: a private copy of one page, always order 0.
vm_fault wp_page_copy(machine &m, u32 vma, u64 address, u64 *pte) {
    if (!anon_vma_prepare(m, vma)) return FAULT_OOM;
    const u64 old = *pte;
    const u32 original = old & PTE_SPECIAL ? NIL : page_head(m, pte_pfn(old));
    if (original != NIL) folio_get(m, original, 1); // not to be reclaimed while it is copied
    const u32 copy = folio_prealloc(m, vma_memcg(m, m.vmas[vma]));
    if (original != NIL) --m.pages[original].refcount;
    if (copy == NIL) return FAULT_OOM;
    const vm_area_struct &v = m.vmas[vma];
    m.spend(TIME_fault, m.cost().fault);
    folio_add_new_anon_rmap(m, copy, vma, align_down(address, PAGE_SIZE), false);
    folio_add_lru_vma(m, copy, vma);
    set_pte(m, v.vm_mm, address, pte, mk_pte(copy, vma_pte_bits(v, true) | PTE_ACCESSED | PTE_DIRTY));
    flush_tlb_range(m, v.vm_mm, align_down(address, PAGE_SIZE), align_down(address, PAGE_SIZE) + PAGE_SIZE);
    if (old & PTE_SPECIAL) {
        m.spend(TIME_zeroing, m.cost().zero_page);
        return FAULT_DONE;
    }
    m.spend(TIME_copying, m.cost().copy_page);
    const u32 pfn = pte_pfn(old);
    m.contents[copy] =
        static_cast<u8>((m.contents[copy] & CONTENT_TOUCHED) | (m.contents[pfn] & CONTENT_MASK));
    --m.mms[v.vm_mm].rss;
    const u32 head = page_head(m, pfn);
    folio_remove_rmap_ptes(m, pfn, 1, v.vm_mm);
    if (v.vm_flags & VM_LOCKED) folio_set_mlocked(m, head, false); // munlock_vma_folio
    folio_put(m, head, 1);
    free_swap_cache(m, head);
    return FAULT_DONE;
}

// R25-R27: small folios with the only reference; large ones that only one process maps, with more than one
// page.
bool wp_can_reuse_anon_folio(machine &m, u32 head) {
    const page &folio = m.pages[head];
    const bool one_entire = folio.entire_mapcount == 1 && folio.large_mapcount == 1;
    if (feature(m, FEATURE_page_count_reuse) || one_entire) return folio.refcount == 1;
    if (folio.order == 0) {
        const bool cached = folio.flags & PG_swapcache;
        if (folio.refcount > 1 + cached) return false;
        return !cached || folio_free_swap(m, head);
    }
    return folio.large_mapcount > 1 && !folio_maybe_mapped_shared(m, head) &&
           folio.large_mapcount == folio.refcount;
}

vm_fault wp_page_shared(machine &m, u64 *pte) {
    *pte |= PTE_RW | PTE_ACCESSED | PTE_DIRTY;
    m.spend(TIME_fault, m.cost().fault_reuse);
    return FAULT_DONE;
}

} // namespace

vm_fault do_wp_page(machine &m, u32 vma, u64 address, u64 *pte) {
    vm_fault whole = FAULT_FALLBACK; // the block of 16 pages around it
    if (*pte & PTE_SPECIAL) {
        if (*pte & PTE_CONT) whole = do_cont_pte_zero_wp(m, vma, address, pte);
        if (whole == FAULT_FALLBACK && feature(m, FEATURE_zero_cow))
            return map_new_folio(m, vma, address, pte, true);
        return whole == FAULT_FALLBACK ? wp_page_copy(m, vma, address, pte) : whole;
    }
    if (m.vmas[vma].vm_flags & VM_SHARED) return wp_page_shared(m, pte);
    const u32 pfn = pte_pfn(*pte), head = page_head(m, pfn);
    const bool exclusive = (m.pages[pfn].flags & PG_anon_exclusive) && !feature(m, FEATURE_page_count_reuse);
    if (!exclusive && !wp_can_reuse_anon_folio(m, head)) {
        if (feature(m, FEATURE_cow_64k)) whole = do_cont_pte_wp(m, vma, address, pte);
        return whole == FAULT_FALLBACK ? wp_page_copy(m, vma, address, pte) : whole;
    }
    m.spend(TIME_fault, m.cost().fault_reuse);
    if (contpte_maps_entirely(m, *pte)) { // one mapping, made writable as a whole
        u64 *block = contpte_align_down(m, pte);
        for (u32 i = 0; i < CONT_PTES; ++i) {
            block[i] |= PTE_RW | PTE_ACCESSED | PTE_DIRTY;
            m.pages[head + i].flags |= PG_anon_exclusive;
        }
        return FAULT_DONE;
    }
    m.pages[pfn].flags |= PG_anon_exclusive;
    ptep_set_access_flags(m, m.vmas[vma].vm_mm, address, pte, *pte | PTE_RW | PTE_ACCESSED | PTE_DIRTY);
    return FAULT_DONE;
}

namespace {

vm_fault handle_pte_fault(machine &m, u32 vma, u64 address, u64 *pmd, bool write) {
    u64 *pte = pte_none(*pmd) ? nullptr : pte_offset(m, *pmd, address);
    if (!pte || pte_none(*pte)) {
        return m.vmas[vma].vm_file ? do_fault(m, vma, address, pmd, write)
                                   : do_anonymous_page(m, vma, address, pmd, write);
    }
    if (is_swap_pte(*pte)) return do_swap_page(m, vma, address, pte, write);
    if (*pte & PTE_GUARD) return FAULT_SIGSEGV;
    if (write && !(*pte & PTE_RW)) return do_wp_page(m, vma, address, pte);
    const u64 noted = PTE_ACCESSED | (write ? u64{PTE_DIRTY} : 0);
    ptep_set_access_flags(m, m.vmas[vma].vm_mm, address, pte, *pte | noted);
    return FAULT_DONE;
}

vm_fault fault_once(machine &m, u32 vma, u64 address, bool write) {
    const vm_area_struct &v = m.vmas[vma];
    if (m.h->order_hook && thp_fault_asks(m, v, address, write)) return FAULT_NEED_ORDER;
    u64 *pmd = pmd_alloc(m, v.vm_mm, address);
    if (!pmd) return FAULT_OOM;
    if (fault_has_choice(m, v, address, *pmd)) m.count(VM_fault_with_choice);
    vm_fault result = FAULT_FALLBACK;
    if (pte_none(*pmd)) {
        if (thp_get_orders(m, v, address, TVA_PAGEFAULT) & (1U << PMD_ORDER)) { // R2
            result = do_huge_pmd_anonymous_page(m, vma, address, pmd, write);
        }
    } else if (pmd_trans_huge(*pmd)) {
        if (write && !(*pmd & PTE_RW)) {
            result = do_huge_pmd_wp_page(m, vma, address, pmd);
        } else {
            *pmd |= PTE_ACCESSED | (write ? u64{PTE_DIRTY} : 0);
            return FAULT_DONE;
        }
    }
    return result == FAULT_FALLBACK ? handle_pte_fault(m, vma, address, pmd, write) : result;
}

} // namespace

void map_anon_folio_pte(machine &m, u32 vma, u32 head, u64 address, u64 *pte, bool dirty) {
    const vm_area_struct &v = m.vmas[vma];
    const u32 nr = folio_nr_pages(m, head);
    const u64 bits = vma_pte_bits(v, true) | PTE_ACCESSED | (dirty ? u64{PTE_DIRTY} : 0);
    const bool entire = feature(m, FEATURE_entire_mapcount) && nr == CONT_PTES && (bits & PTE_PRESENT);
    if (!entire) folio_get(m, head, static_cast<i32>(nr) - 1);
    folio_add_new_anon_rmap(m, head, vma, address, entire);
    set_ptes(m, v.vm_mm, address, pte, mk_pte(head, bits), nr);
}

void unmap_folio_ptes(machine &m, u32 mm, u64 address, u64 *pte, u32 nr) {
    const u32 pfn = pte_pfn(*pte), head = page_head(m, pfn);
    const bool entire = nr == CONT_PTES && contpte_maps_entirely(m, *pte);
    clear_full_ptes(m, mm, address, pte, nr);
    m.mms[mm].rss -= nr;
    if (entire) {
        folio_remove_rmap_pmd(m, head, mm);
    } else {
        folio_remove_rmap_ptes(m, pfn, nr, mm);
    }
    folio_put(m, head, entire ? 1 : static_cast<i32>(nr));
}

u64 vma_pte_bits(const vm_area_struct &vma, bool writable) {
    if (!(vma.vm_flags & (VM_READ | VM_WRITE))) return PTE_PROTNONE;
    return PTE_PRESENT | (writable && (vma.vm_flags & VM_WRITE) ? u64{PTE_RW} : 0);
}

bool fault_has_choice(machine &m, const vm_area_struct &vma, u64 address, u64 pmd) {
    const u32 orders = thp_vma_suitable_orders(vma, address, thp_orders_by_settings(m, vma));
    if (!orders) return false;
    if (pte_none(pmd)) return true;
    const u32 small = orders & ~(1U << PMD_ORDER);
    if (!small || !pmd_is_table(pmd)) return false;
    const u32 nr = 1U << std::countr_zero(small); // where a larger block is empty this one is too
    const u64 *table = pte_offset(m, pmd, 0);
    return pte_range_replaceable(table + (pte_index(address) & ~(nr - 1)), nr,
                                 grows_at_cow(m, table[pte_index(address)]));
}

vm_fault handle_mm_fault(machine &m, u32 vma, u64 address, bool write) {
    const attribute_time_to scope(m, vma);
    const u64 begin = m.h->clock, majflt = m.mms[m.vmas[vma].vm_mm].majflt;
    if (feature(m, FEATURE_pool_64k)) huge_page_pool_balance(m);
    const vm_fault result = fault_once(m, vma, address, write);
    if (result == FAULT_NEED_ORDER) return result;
    m.count(VM_pgfault);
    ++m.h->fault_latency[latency_bucket(m.h->clock - begin)];
    mm_struct &mm = m.mms[m.vmas[vma].vm_mm];
    if (result == FAULT_DONE && mm.majflt == majflt) ++mm.minflt;
    run_daemons(m);
    return result;
}

u32 folio_pte_batch(const machine &m, const u64 *pte, u32 max) {
    const u32 pfn = pte_pfn(*pte), head = page_head(m, pfn);
    const u32 limit = std::min(max, head + folio_nr_pages(m, head) - pfn);
    u32 n = 1;
    while (n < limit && pte_present(pte[n]) && !(pte[n] & PTE_SPECIAL) && pte_pfn(pte[n]) == pfn + n) ++n;
    return n;
}

namespace {

// True when something was left there.
bool zap_pte_range(machine &m, u32 vma, u64 address, u64 *pte, u32 nr, bool drop_markers) {
    const u32 mm = m.vmas[vma].vm_mm;
    bool skipped = false;
    for (u32 i = 0; i < nr;) {
        if (pte_none(pte[i])) {
            ++i;
            continue;
        }
        if (is_swap_pte(pte[i])) {
            const u32 n = swap_pte_batch(pte + i, nr - i);
            swap_free(m, pte_swp_offset(pte[i]), n);
            m.mms[mm].swapents -= n;
            std::fill_n(pte + i, n, 0);
            i += n;
            continue;
        }
        const u64 at = address + (u64{i} << PAGE_SHIFT);
        if (!pte_present(pte[i]) && !drop_markers) { // zap_nonpresent_ptes: only unmapping removes guards
            skipped = true;
            ++i;
            continue;
        }
        if (!pte_present(pte[i]) || (pte[i] & PTE_SPECIAL)) { // a marker or the zero page
            const u32 n = pte[i] & PTE_CONT ? std::min(CONT_PTES - pte_index(at) % CONT_PTES, nr - i) : 1;
            clear_full_ptes(m, mm, at, pte + i, n);
            m.spend(TIME_unmapping, m.cost().zap_pte * n);
            i += n;
            continue;
        }
        const u32 n = folio_pte_batch(m, pte + i, nr - i);
        m.spend(TIME_unmapping, m.cost().zap_folio + m.cost().zap_pte * n);
        const u32 head = page_head(m, pte_pfn(pte[i]));
        if (m.vmas[vma].vm_flags & VM_LOCKED) folio_set_mlocked(m, head, false); // munlock_vma_folio
        unmap_folio_ptes(m, mm, at, pte + i, n);
        free_swap_cache(m, head);
        i += n;
    }
    return skipped;
}

} // namespace

bool zap_page_range(machine &m, u32 vma, u64 start, u64 end, bool dontneed, call_progress *call) {
    const attribute_time_to scope(m, vma);
    const u32 mm = m.vmas[vma].vm_mm;
    mmu_gather gather;
    u64 rss = m.mms[mm].rss, from = start;
    if (call && call->reached) {
        from = call->reached;
        gather = {call->flush_start, call->flush_end, call->flush_shift};
        rss = call->rss;
        *call = {};
    }
    const bool done = walk_pmd_range(m, mm, from, end, [&](u64 at, u64 next, u64 *pmd) {
        if (at > from && call_pauses(m, at, call)) return false;
        const bool whole = next - at == PMD_SIZE, huge = pmd_trans_huge(*pmd);
        if (huge && whole) {
            zap_huge_pmd(m, vma, pmd);
        } else {
            if (huge && !split_huge_pmd(m, vma, pmd, at)) return false; // R17
            const auto nr = static_cast<u32>((next - at) >> PAGE_SHIFT);
            const bool skipped = zap_pte_range(m, vma, at, pte_offset(m, *pmd, at), nr, !dontneed);
            // X1: only x86-64 selects PT_RECLAIM.
            const bool reclaim_pt = dontneed && m.h->config.arch == ARCH_X86_64;
            if (reclaim_pt && whole && !skipped) free_pte_table(m, pmd);
        }
        gather.add(at, next, huge && whole ? PMD_SHIFT : PAGE_SHIFT);
        return true;
    });
    if (call && call->reached) {
        *call = {call->reached, gather.start, gather.end, rss, gather.stride_shift, 0};
        return false;
    }
    gather.flush(m, mm);
    order_answers_zap(m, m.vmas[vma], start, end);
    m.vmas[vma].zapped += rss - m.mms[mm].rss;
    m.vmas[vma].zap_calls += rss != m.mms[mm].rss;
    return done;
}

} // namespace thp
