#include "madvise.hpp"
#include "../hardware/tlb.hpp"
#include "khugepaged.hpp"
#include "lru.hpp"
#include "memory.hpp"
#include "mmap.hpp"
#include "page_alloc.hpp"
#include "page_table.hpp"
#include "rmap.hpp"
#include <algorithm>
#include <cerrno>

namespace thp {

namespace {

// Calls each(vma, start, end) for the part of every VMA in the range; a hole is -ENOMEM, after the rest is
// done.
template <typename Each> int walk_vmas(machine &m, u32 mm, u64 start, u64 end, Each each) {
    int hole = 0;
    u64 at = start;
    for (u32 v = find_vma(m, mm, start); at < end; v = find_vma(m, mm, at)) {
        if (v == NIL || m.vmas[v].vm_start > at) hole = -ENOMEM;
        if (v == NIL || m.vmas[v].vm_start >= end) break;
        const u64 last = std::min(end, m.vmas[v].vm_end);
        if (int error = each(v, std::max(at, m.vmas[v].vm_start), last)) return error;
        at = last;
    }
    return hole;
}

int set_vma_flag(machine &m, u32 mm, u64 start, u64 end, u32 flag, bool on) {
    return vma_modify(
        m, mm, start, end, GO_ON, [&](const vm_area_struct &v) { return !(v.vm_flags & flag) == on; },
        [&](u32 v) { m.vmas[v].vm_flags ^= flag; });
}

int hugepage_madvise(machine &m, u32 mm, u64 start, u64 end, bool huge) {
    const u32 on = huge ? VM_HUGEPAGE : VM_NOHUGEPAGE;
    constexpr u32 both = VM_HUGEPAGE | VM_NOHUGEPAGE;
    const auto advised = [&](u32 v) { return (m.vmas[v].vm_flags & ~both) | on; };
    if (huge) { // R45: also what is advised already, and before VMAs are cut to fit
        walk_vmas(m, mm, start, end, [&](u32 v, u64, u64) {
            khugepaged_enter_vma(m, v, advised(v));
            return 0;
        });
    }
    return vma_modify(
        m, mm, start, end, GO_ON, [&](const vm_area_struct &v) { return (v.vm_flags & both) != on; },
        [&](u32 v) { m.vmas[v].vm_flags = advised(v); });
}

// faultin_page_range: missing rights are -EINVAL here, and only here.
int guard_install(machine &m, u32 v, u64 start, u64 end) {
    if (m.vmas[v].vm_flags & VM_LOCKED) return -EINVAL;
    if (!anon_vma_prepare(m, v)) return -ENOMEM; // so that fork copies the markers
    if (!zap_page_range(m, v, start, end, false)) return -ENOMEM;
    for (u64 at = start; at < end; at += PAGE_SIZE) {
        m.host.work();
        u64 *pmd = pmd_alloc(m, m.vmas[v].vm_mm, at);
        if (!pmd || !pte_alloc(m, pmd)) return -ENOMEM;
        *pte_offset(m, *pmd, at) = PTE_GUARD;
    }
    return 0;
}

int guard_remove(machine &m, u32 v, u64 start, u64 end) {
    walk_pmd_range(m, m.vmas[v].vm_mm, start, end, [&](u64 at, u64 next, u64 *pmd) {
        if (!pmd_is_table(*pmd)) return true;
        for (u64 *pte = pte_offset(m, *pmd, at); at < next; at += PAGE_SIZE, ++pte) {
            if ((*pte & PTE_GUARD) && !pte_present(*pte)) *pte = 0;
        }
        return true;
    });
    return 0;
}

// FOLL_TOUCH: what is asked for counts as accessed and, to be written, as dirty: a PMD in its entry, a page
// in its folio.
void touch_page(machine &m, u32 mm, u64 address, u64 entry, bool write) {
    if (entry & PTE_PSE) {
        *pmd_offset(m, mm, address) |= PTE_ACCESSED | (write ? u64{PTE_DIRTY} : 0);
    } else if (!(entry & PTE_SPECIAL)) {
        const u32 head = page_head(m, pte_pfn(entry));
        if (write && !(entry & PTE_DIRTY)) m.pages[head].flags |= PG_dirty;
        folio_mark_accessed(m, head);
    }
}

} // namespace

int populate(machine &m, u32 mm, u64 address, bool write) {
    m.host.work();
    const u32 v = vma_lookup(m, mm, address);
    if (v == NIL) return -ENOMEM;
    const u32 flags = m.vmas[v].vm_flags;
    write = write && (flags & VM_WRITE);
    if (!(flags & (VM_READ | VM_WRITE))) return -EFAULT; // check_vma_flags
    for (;;) {
        const u64 entry = follow_entry(m, mm, address);
        if ((entry & PTE_PRESENT) && (!write || (entry & PTE_RW))) {
            touch_page(m, mm, address, entry, write);
            return 0;
        }
        switch (handle_mm_fault(m, v, address, write)) {
        case FAULT_SIGSEGV:
            return -EFAULT;
        case FAULT_OOM:
            return -ENOMEM;
        case FAULT_NEED_ORDER:
            return -ENEEDORDER;
        default:
            break;
        }
    }
}

u64 populated_to(machine &m, u32 mm, u64 address) {
    const bool huge = follow_entry(m, mm, address) & PTE_PSE;
    return huge ? align_down(address, PMD_SIZE) + PMD_SIZE : address + PAGE_SIZE;
}

int madvise_populate(machine &m, u32 mm, u64 start, u64 end, bool write, call_progress *call) {
    int error = 0;
    for (u64 at = start; at < end && !error; at = populated_to(m, mm, at)) {
        if (at > start && call_pauses(m, at, call)) return -EPAUSED;
        const u32 v = vma_lookup(m, mm, at);
        if (v != NIL && !(m.vmas[v].vm_flags & (write ? VM_WRITE : VM_READ))) return -EINVAL;
        error = populate(m, mm, at, write);
    }
    return error;
}

int do_madvise(machine &m, u32 mm, u64 start, u64 length, u64 advice) {
    const u64 end = start + align_up(length, PAGE_SIZE);
    if (start % PAGE_SIZE || end < start) return -EINVAL;
    switch (advice) {
    case MADV_NORMAL:
        return 0;
    case MADV_HUGEPAGE:
    case MADV_NOHUGEPAGE:
        return hugepage_madvise(m, mm, start, end, advice == MADV_HUGEPAGE);
    case MADV_DONTFORK:
        return set_vma_flag(m, mm, start, end, VM_DONTCOPY, true);
    case MADV_DOFORK:
        return set_vma_flag(m, mm, start, end, VM_DONTCOPY, false);
    case MADV_WIPEONFORK:
        return set_vma_flag(m, mm, start, end, VM_WIPEONFORK, true);
    case MADV_KEEPONFORK:
        return set_vma_flag(m, mm, start, end, VM_WIPEONFORK, false);
    case MADV_DONTNEED:
        return walk_vmas(m, mm, start, end, [&](u32 v, u64 from, u64 to) {
            if (m.vmas[v].vm_flags & VM_LOCKED) return -EINVAL;
            return zap_page_range(m, v, from, to, true) ? 0 : -ENOMEM;
        });
    case MADV_FREE:
    case MADV_COLD:
    case MADV_PAGEOUT:
        return walk_vmas(m, mm, start, end,
                         [&](u32 v, u64 from, u64 to) { return madvise_pages(m, v, from, to, advice); });
    case MADV_WILLNEED:
        return walk_vmas(m, mm, start, end,
                         [&](u32 v, u64 from, u64 to) { return willneed(m, v, from, to); });
    case MADV_COLLAPSE:
        return walk_vmas(m, mm, start, end,
                         [&](u32 v, u64 from, u64 to) { return madvise_collapse(m, v, from, to); });
    case MADV_POPULATE_READ:
    case MADV_POPULATE_WRITE:
        return madvise_populate(m, mm, start, end, advice == MADV_POPULATE_WRITE);
    case MADV_GUARD_INSTALL:
        return walk_vmas(m, mm, start, end,
                         [&](u32 v, u64 from, u64 to) { return guard_install(m, v, from, to); });
    case MADV_GUARD_REMOVE:
        return walk_vmas(m, mm, start, end,
                         [&](u32 v, u64 from, u64 to) { return guard_remove(m, v, from, to); });
    default:
        return -ENOSYS;
    }
}

} // namespace thp
