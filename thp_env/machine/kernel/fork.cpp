#include "fork.hpp"
#include "../hardware/tlb.hpp"
#include "contpte.hpp"
#include "huge_memory.hpp"
#include "lru.hpp"
#include "memory.hpp"
#include "mmap.hpp"
#include "page_alloc.hpp"
#include "page_table.hpp"
#include "rmap.hpp"
#include "swap.hpp"
#include <algorithm>

namespace thp {

namespace {

bool maybe_pinned(const machine &m, u32 head) { return m.pages[head].pincount > 0; }

// R24: the child gets its own copy of a page that a device may be writing to.
bool copy_present_page(machine &m, u32 child_vma, u64 address, u64 source, u64 *pte) {
    const u32 copy = folio_prealloc(m, m.mms[m.vmas[child_vma].vm_mm].memcg);
    if (copy == NIL) return false;
    folio_add_new_anon_rmap(m, copy, child_vma, address, false);
    folio_add_lru_vma(m, copy, child_vma);
    m.contents[copy] = static_cast<u8>(m.contents[copy] | (m.contents[pte_pfn(source)] & CONTENT_MASK));
    *pte = mk_pte(copy, vma_pte_bits(m.vmas[child_vma], true) | PTE_ACCESSED | PTE_DIRTY);
    m.spend(TIME_copying, m.cost().copy_page);
    return true;
}

// One batch of PTEs of a folio; returns how many were copied, 0 when memory is exhausted.
u32 copy_present_ptes(machine &m, u32 parent, u32 child_vma, u64 address, u64 *from, u64 *to, u32 max) {
    const u32 pfn = pte_pfn(*from), head = page_head(m, pfn), mm = m.vmas[child_vma].vm_mm;
    const bool batch = feature(m, FEATURE_fork_batch) || contpte_maps_entirely(m, *from);
    u32 nr = folio_pte_batch(m, from, batch ? max : 1);
    const auto exclusive = [&m](u32 page) { return (m.pages[page].flags & PG_anon_exclusive) != 0; };
    if (maybe_pinned(m, head)) {
        if (exclusive(pfn)) return copy_present_page(m, child_vma, address, *from, to) ? 1 : 0;
        for (u32 page = pfn + 1; page < pfn + nr; ++page) {
            if (exclusive(page)) nr = 1; // one by one, since some of the batch have to be copied
        }
    }
    wrprotect_ptes(m, parent, address, from, nr);
    for (u32 i = 0; i < nr; ++i) {
        to[i] = from[i] & ~u64{PTE_ACCESSED | PTE_CONT};
        m.pages[pfn + i].flags &= ~u32{PG_anon_exclusive};
    }
    if (nr > 1) {
        contpte_set_ptes(m, address, to, nr);
    } else {
        contpte_try_fold(m, mm, address, to);
    }
    if (contpte_maps_entirely(m, *to)) {
        folio_get(m, head, 1);
        folio_add_anon_rmap_pmd(m, head, mm);
    } else {
        folio_get(m, head, static_cast<i32>(nr));
        folio_add_anon_rmap_ptes(m, pfn, nr, mm);
    }
    m.mms[mm].rss += nr;
    m.spend(TIME_syscall, m.cost().fork_folio + m.cost().fork_pte * nr);
    return nr;
}

bool copy_pte_range(machine &m, u32 parent, u32 child_vma, u64 start, u64 *from, u64 *to, u32 nr) {
    for (u32 i = 0; i < nr;) {
        if (pte_none(from[i])) {
            ++i;
            continue;
        }
        if (is_swap_pte(from[i])) { // both may fault it in: no longer exclusive
            from[i] &= ~u64{PTE_SWP_EXCLUSIVE};
            swap_duplicate(m, pte_swp_offset(from[i]), 1);
            ++m.mms[m.vmas[child_vma].vm_mm].swapents;
        }
        const u64 at = start + (u64{i} << PAGE_SHIFT);
        if ((from[i] & PTE_CONT) &&
            (from[i] & PTE_SPECIAL)) { // zero_64k: copied folded, or as base zero pages
            const u32 n = std::min(CONT_PTES - pte_index(at) % CONT_PTES, nr - i);
            if (n < CONT_PTES) contpte_try_unfold(m, parent, at, from + i);
            if (n == CONT_PTES && !mm_get_huge_zero_folio(m, m.vmas[child_vma].vm_mm)) return false;
            std::copy_n(from + i, n, to + i);
            i += n;
            continue;
        }
        if (!pte_present(from[i]) ||
            (from[i] & PTE_SPECIAL)) { // guard markers and zero pages are copied as they are
            to[i] = from[i];
            ++i;
            continue;
        }
        const u32 n = copy_present_ptes(m, parent, child_vma, at, from + i, to + i, nr - i);
        if (n == 0) return false;
        i += n;
    }
    return true;
}

// True when the PMD itself could be shared; a pinned one is split first and copied page by page.
bool copy_huge_pmd(machine &m, u32 parent_vma, u32 child_vma, u64 address, u64 *from, u64 *to) {
    const u32 mm = m.vmas[child_vma].vm_mm;
    if (*from & PTE_SPECIAL) {
        mm_get_huge_zero_folio(m, mm);
        *to = *from & ~u64{PTE_ACCESSED};
        return true;
    }
    const u32 head = pte_pfn(*from);
    if (maybe_pinned(m, head) && (m.pages[head].flags & PG_anon_exclusive)) {
        split_huge_pmd(m, parent_vma, from, address);
        return false;
    }
    *from &= ~u64{PTE_RW};
    *to = *from & ~u64{PTE_ACCESSED};
    m.pages[head].flags &= ~u32{PG_anon_exclusive};
    folio_get(m, head, 1);
    folio_add_anon_rmap_pmd(m, head, mm);
    m.mms[mm].rss += HPAGE_PMD_NR;
    m.spend(TIME_syscall, m.cost().fork_pmd);
    return true;
}

bool copy_page_range(machine &m, u32 parent_vma, u32 child_vma) {
    const vm_area_struct vma = m.vmas[parent_vma];
    const u32 child = m.vmas[child_vma].vm_mm;
    return walk_pmd_range(m, vma.vm_mm, vma.vm_start, vma.vm_end, [&](u64 at, u64 next, u64 *from) {
        u64 *to = pmd_alloc(m, child, at);
        if (!to) return false;
        if (pmd_trans_huge(*from) && copy_huge_pmd(m, parent_vma, child_vma, at, from, to)) return true;
        if (pmd_trans_huge(*from) || !pte_alloc(m, to)) return false; // no memory for a table
        const auto nr = static_cast<u32>((next - at) >> PAGE_SHIFT);
        return copy_pte_range(m, vma.vm_mm, child_vma, at, pte_offset(m, *from, at), pte_offset(m, *to, at),
                              nr);
    });
}

} // namespace

u32 dup_mm(machine &m, u32 mm) {
    const u32 child = mm_create(m);
    if (child == NIL) return NIL;
    m.spend(TIME_syscall, m.cost().fork);
    const mm_struct &parent = m.mms[mm];
    m.mms[child].mmap_base = parent.mmap_base;
    m.mms[child].start_brk = parent.start_brk;
    m.mms[child].brk = parent.brk;
    m.mms[child].thp_disable = parent.thp_disable;
    m.mms[child].khugepaged = parent.khugepaged;
    m.mms[child].no_sys_nice = parent.no_sys_nice;
    m.mms[child].memcg = parent.memcg;
    bool copied = true;
    for (u32 v = find_vma(m, mm, 0); v != NIL && copied; v = vma_next(m, v)) {
        const vm_area_struct old = m.vmas[v];
        if (old.vm_flags & VM_DONTCOPY) continue;
        const u32 dup = vma_dup(m, v, child);
        copied = dup != NIL;
        // R12: no anon_vma, nothing to copy. R30: MADV_WIPEONFORK leaves the child an empty VMA.
        if (!copied || old.anon_vma == NIL || (old.vm_flags & VM_WIPEONFORK)) continue;
        copied = anon_vma_fork(m, dup, old.anon_vma) && copy_page_range(m, v, dup);
    }
    flush_tlb_mm(m, mm);
    if (copied) return child;
    mm_exit(m, child);
    return NIL;
}

} // namespace thp
