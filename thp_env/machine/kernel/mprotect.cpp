// mm/mprotect.c, mm/mlock.c: changing what a range may be used for.
#include "../hardware/tlb.hpp"
#include "contpte.hpp"
#include "huge_memory.hpp"
#include "lru.hpp"
#include "madvise.hpp"
#include "memory.hpp"
#include "mmap.hpp"
#include "page_alloc.hpp"
#include "page_table.hpp"
#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

namespace thp {

namespace {

constexpr u64 RIGHTS = PTE_PRESENT | PTE_PROTNONE | PTE_RW;

// modify_prot_start_ptes and _commit_ptes: one is accessed or dirty, then all are. Runs of equally exclusive
// pages are written together, so that whole blocks stay folded (X8).
void change_ptes(machine &m, const vm_area_struct &vma, u64 address, u64 *pte, u32 nr) {
    contpte_try_unfold_partial(m, vma.vm_mm, address, pte, nr);
    const u32 pfn = pte_pfn(*pte);
    const bool zero = *pte & PTE_SPECIAL;
    u64 bits = *pte - mk_pte(pfn, 0);
    for (u32 i = 1; i < nr; ++i) bits |= pte[i] & (PTE_ACCESSED | PTE_DIRTY);
    bits &= ~(RIGHTS | u64{PTE_CONT});
    std::fill_n(pte, nr, 0);
    // R29: an exclusive page becomes writable at once, others wait for their fault.
    const auto writable = [&](u32 i) {
        return !zero && (m.pages[pfn + i].flags & PG_anon_exclusive) && !feature(m, FEATURE_page_count_reuse);
    };
    for (u32 i = 0, n = 1; i < nr; i += n) { // commit_anon_folio_batch
        const bool write = writable(i);
        for (n = 1; i + n < nr && writable(i + n) == write; ++n) {
        }
        const u64 entry = mk_pte(pfn + i, bits | vma_pte_bits(vma, write));
        set_ptes(m, vma.vm_mm, address + (u64{i} << PAGE_SHIFT), pte + i, entry, n);
    }
    m.spend(TIME_syscall, m.cost().change_pte * nr);
}

// change_pte_range: entries of one folio with equal rights are changed at once; by Linux 5.15 one by one.
void change_pte_range(machine &m, const vm_area_struct &vma, u64 address, u64 *pte, u32 count) {
    const bool batch = !feature(m, FEATURE_entire_mapcount);
    for (u32 i = 0, nr = 1; i < count; i += nr) {
        nr = 1;
        if (!pte_present(pte[i])) continue;
        const u32 most = batch && !(pte[i] & PTE_SPECIAL) ? folio_pte_batch(m, pte + i, count - i) : 1;
        while (nr < most && !((pte[i] ^ pte[i + nr]) & RIGHTS)) ++nr;
        change_ptes(m, vma, address + (u64{i} << PAGE_SHIFT), pte + i, nr);
    }
}

bool change_protection(machine &m, u32 v) {
    const vm_area_struct &vma = m.vmas[v];
    const bool done = walk_pmd_range(m, vma.vm_mm, vma.vm_start, vma.vm_end, [&](u64 at, u64 next, u64 *pmd) {
        if (pmd_trans_huge(*pmd) && next - at == PMD_SIZE) {
            change_huge_pmd(m, vma, pmd);
            return true;
        }
        if (pmd_trans_huge(*pmd) && !split_huge_pmd(m, v, pmd, at)) return false;
        change_pte_range(m, vma, at, pte_offset(m, *pmd, at), static_cast<u32>((next - at) >> PAGE_SHIFT));
        return true;
    });
    flush_tlb_range(m, vma.vm_mm, vma.vm_start, vma.vm_end);
    return done;
}

// mlock_pte_range: a large folio is locked only where the VMA maps the whole of it, and unlocked by any part.
void mlock_pages(machine &m, const vm_area_struct &vma, bool on) {
    walk_pmd_range(m, vma.vm_mm, vma.vm_start, vma.vm_end, [&](u64 at, u64 next, u64 *pmd) {
        if (pmd_trans_huge(*pmd)) {
            if (!(*pmd & PTE_SPECIAL) && (!on || next - at == PMD_SIZE))
                folio_set_mlocked(m, pte_pfn(*pmd), on);
            return true;
        }
        const u64 *pte = pte_offset(m, *pmd, at);
        const auto count = static_cast<u32>((next - at) >> PAGE_SHIFT);
        for (u32 i = 0, nr = 1; i < count; i += nr) {
            nr = 1;
            if (!pte_present(pte[i]) || (pte[i] & PTE_SPECIAL)) continue;
            const u32 head = page_head(m, pte_pfn(pte[i]));
            if (m.pages[head].flags & PG_file) continue;
            nr = folio_pte_batch(m, pte + i, count - i);
            if (!on || nr == folio_nr_pages(m, head)) folio_set_mlocked(m, head, on);
        }
        return true;
    });
}

} // namespace

int mprotect(machine &m, u32 mm, u64 start, u64 end, u32 protection) {
    constexpr u32 access = VM_READ | VM_WRITE;
    bool memory = true;
    std::vector<std::pair<u64, u64>> writable;
    const int error = vma_modify(
        m, mm, start, end, STOP, [&](const vm_area_struct &v) { return (v.vm_flags & access) != protection; },
        [&](u32 v) {
            const u32 before = m.vmas[v].vm_flags;
            m.vmas[v].vm_flags = (before & ~access) | protection;
            memory = memory && change_protection(m, v);
            if ((before & (VM_WRITE | VM_LOCKED)) == VM_LOCKED && (protection & VM_WRITE))
                writable.emplace_back(m.vmas[v].vm_start, m.vmas[v].vm_end);
        });
    // mprotect_fixup: what is locked and becomes writable is faulted in at once, in the VMA that it was
    // merged into; errors do not matter.
    for (const auto &[from, to] : writable) {
        int failed = 0;
        for (u64 at = from; at < to && !failed; at = populated_to(m, mm, at))
            failed = populate(m, mm, at, true);
    }
    return memory ? error : -ENOMEM;
}

int mlock(machine &m, u32 mm, u64 start, u64 end, bool on, call_progress *call) {
    const u64 first = call && call->reached ? call->reached : start;
    int error = first > start ? 0
                              : vma_modify(
                                    m, mm, start, end, STOP,
                                    [&](const vm_area_struct &v) { return !(v.vm_flags & VM_LOCKED) == on; },
                                    [&](u32 v) {
                                        m.vmas[v].vm_flags ^= VM_LOCKED;
                                        mlock_pages(m, m.vmas[v], on);
                                    });
    if (error || !on) return error;
    // __mm_populate: every page is faulted in, for writing where the VMA permits it.
    for (u64 at = first; at < end && !error; at = populated_to(m, mm, at)) {
        if (at > first && call_pauses(m, at, call)) return -EPAUSED;
        error = populate(m, mm, at, true);
    }
    // __mlock_posix_error_return
    return error == -EFAULT ? -ENOMEM : error == -ENOMEM ? -EAGAIN : error;
}

} // namespace thp
