// mm/mremap.c: moving mappings.
#include "../hardware/tlb.hpp"
#include "contpte.hpp"
#include "huge_memory.hpp"
#include "huge_memory_bpf.hpp"
#include "memory.hpp"
#include "mmap.hpp"
#include "page_table.hpp"
#include "rmap.hpp"
#include <algorithm>
#include <cerrno>

namespace thp {

namespace {

// One batch of consecutive pages of a folio; a whole aligned block stays folded where it lands in line (X6).
void move_ptes(machine &m, u32 mm, u64 from, u64 *a, u64 to, u64 *b, u32 nr) {
    const bool in_line = nr == CONT_PTES && (to - from) % CONT_PTE_SIZE == 0;
    for (u32 i = 0; i < nr && !in_line; ++i) contpte_try_unfold(m, mm, from + (u64{i} << PAGE_SHIFT), a + i);
    if (pte_present(*a)) {
        for (u32 i = 0; i < nr; ++i) b[i] = a[i] & ~u64{PTE_CONT};
    } else {
        *b = *a;
    }
    clear_full_ptes(m, mm, from, a, nr);
    if (nr > 1) contpte_set_ptes(m, to, b, nr);
    m.spend(TIME_syscall, m.cost().change_pte * nr);
}

// PMD maps move whole where both sides are aligned, PTEs one by one (no folio is split). False when tables
// run out.
bool move_entries(machine &m, u32 vma, u64 from, u64 to, u64 length) {
    const u32 mm = m.vmas[vma].vm_mm;
    for (u64 done = 0; done < length;) {
        m.host.work();
        const u64 old = from + done, target = to + done;
        const u64 step = std::min({align_down(old, PMD_SIZE) + PMD_SIZE - old,
                                   align_down(target, PMD_SIZE) + PMD_SIZE - target, length - done});
        done += step;
        u64 *source = pmd_offset(m, mm, old);
        if (!source || pte_none(*source)) continue;
        u64 *sink = pmd_alloc(m, mm, target);
        if (!sink) return false;
        if (pmd_trans_huge(*source)) {
            if (step == PMD_SIZE && pte_none(*sink)) {
                *sink = *source;
                *source = 0;
                m.spend(TIME_syscall, m.cost().change_pte);
                continue;
            }
            if (!split_huge_pmd(m, vma, source, old)) return false;
        }
        if (!pte_alloc(m, sink)) return false;
        u64 *a = pte_offset(m, *source, old), *b = pte_offset(m, *sink, target);
        const auto count = static_cast<u32>(step >> PAGE_SHIFT);
        for (u32 i = 0, nr = 1; i < count; i += nr) {
            nr = 1;
            if (pte_none(a[i])) continue;
            if (pte_present(a[i]) && !(a[i] & PTE_SPECIAL)) nr = folio_pte_batch(m, a + i, count - i);
            move_ptes(m, mm, old + (u64{i} << PAGE_SHIFT), a + i, target + (u64{i} << PAGE_SHIFT), b + i, nr);
        }
    }
    return true;
}

bool move_page_tables(machine &m, u32 vma, u64 from, u64 to, u64 length) {
    const bool done = move_entries(m, vma, from, to, length);
    flush_tlb_range(m, m.vmas[vma].vm_mm, from, from + length); // also what moved before memory ran out
    return done;
}

// Moves a range of one VMA to where nothing is mapped any more.
int move_vma(machine &m, u32 v, u64 from, u64 length, u64 to, u64 new_length) {
    const u32 mm = m.vmas[v].vm_mm;
    // copy_vma and the unmapping of the old range cut the old VMA at both ends.
    if (m.vmas[v].vm_start < from) {
        if (int error = split_vma(m, v, from)) return error;
        v = vma_lookup(m, mm, from);
    }
    if (m.vmas[v].vm_end > from + length) {
        if (int error = split_vma(m, v, from + length)) return error;
    }
    const vm_area_struct old = m.vmas[v];
    if (int error = do_mmap(m, mm, to, new_length, old.vm_flags | VM_FILE)) return error; // unmerged for now
    const u32 target = vma_lookup(m, mm, to);
    vm_area_struct &target_vma = m.vmas[target];
    target_vma.vm_flags = old.vm_flags;
    target_vma.orders = old.orders;
    target_vma.vm_file = old.vm_file;
    target_vma.file_pages = old.file_pages;
    target_vma.swap_readahead = old.swap_readahead;
    if (old.vm_file) target_vma.vm_pgoff = old.vm_pgoff;
    if (old.anon_vma != NIL) { // a VMA that was never faulted in takes the offset of its new place
        target_vma.vm_pgoff = old.vm_pgoff;
        anon_vma_link(m, target, old.anon_vma);
    }
    std::copy(std::begin(old.faults), std::end(old.faults), std::begin(target_vma.faults));
    swap_vma_ids(m, target, v);
    order_answers_move(m, target_vma.id, m.vmas[v].id, from, from + length, 0);
    std::swap(target_vma.asked, m.vmas[v].asked);
    std::swap(target_vma.times, m.vmas[v].times);
    if (!move_page_tables(m, v, from, to, length)) return -ENOMEM;
    if (int error = do_munmap(m, mm, from, from + length)) return error;
    vma_merge_range(m, mm, to, to + new_length);
    return 0;
}

// remap_move: all VMAs of a range may move together if none is resized; gaps between them stay as they are.
int remap_move(machine &m, u32 mm, u64 from, u64 end, u64 to) {
    for (u64 at = from; at < end;) {
        const u32 v = find_vma(m, mm, at);
        if (at == from && (v == NIL || m.vmas[v].vm_start > from)) return -EFAULT;
        if (v == NIL || m.vmas[v].vm_start >= end) break;
        at = std::max(at, m.vmas[v].vm_start);
        const u64 length = std::min(end, m.vmas[v].vm_end) - at;
        if (int error = move_vma(m, v, at, length, to + (at - from), length)) return error;
        at += length;
    }
    return 0;
}

} // namespace

int check_mremap_params(u64 from, u64 length, u64 to, u64 new_length, bool fixed) {
    if (new_length == 0 || new_length > TASK_SIZE) return -EINVAL;
    if (!fixed) return 0;
    if (to > TASK_SIZE - new_length) return -EINVAL;
    return from + length > to && to + new_length > from ? -EINVAL : 0; // vrm_overlaps
}

int mremap(machine &m, u32 mm, u64 from, u64 length, u64 to, u64 new_length) {
    if (length == new_length && to != from)
        return remap_move(m, mm, from, from + length, to); // vrm_move_only
    const u64 common = std::min(length, new_length);
    const u32 v = vma_lookup(m, mm, from);
    if (v == NIL) return -EFAULT;
    const bool maps_new = to != from || new_length > length; // check_prep_vma
    if (maps_new && length == 0) return -EINVAL;
    if (maps_new && m.vmas[v].vm_end - from < common) return -EFAULT;
    if (length > common) {
        if (int error = do_munmap(m, mm, from + common, from + length)) return error;
    }
    if (to == from) { // grows in place
        return new_length > common ? vma_expand(m, v, from + new_length) : 0;
    }
    return move_vma(m, v, from, common, to, new_length);
}

} // namespace thp
