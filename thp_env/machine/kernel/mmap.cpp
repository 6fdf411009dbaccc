#include "mmap.hpp"
#include "../hardware/tlb.hpp"
#include "huge_memory.hpp"
#include "huge_memory_bpf.hpp"
#include "khugepaged.hpp"
#include "memory.hpp"
#include "page_alloc.hpp"
#include "page_table.hpp"
#include "rmap.hpp"
#include <algorithm>
#include <cerrno>

namespace thp {

namespace {

// Position in vma_order of the first VMA of the mm that ends above the address.
u32 lower_bound(const machine &m, u32 mm, u64 address) {
    u32 low = 0, high = m.h->nr_vmas;
    while (low < high) {
        const u32 middle = (low + high) / 2;
        const vm_area_struct &v = m.vmas[m.vma_order[middle]];
        if (v.vm_mm < mm || (v.vm_mm == mm && v.vm_end <= address)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

u32 at_position(const machine &m, u32 position, u32 mm) {
    if (position >= m.h->nr_vmas) return NIL;
    const u32 v = m.vma_order[position];
    return m.vmas[v].vm_mm == mm ? v : NIL;
}

u32 vma_create(machine &m, u32 mm, u64 start, u64 end) {
    const u32 v = record_alloc(m.h->arrays[ARRAY_vmas], m.vmas);
    if (v == NIL) return NIL;
    vm_area_struct &vma = m.vmas[v];
    vma.vm_start = start;
    vma.vm_end = end;
    vma.vm_mm = mm;
    vma.vm_pgoff = start >> PAGE_SHIFT;
    vma.anon_vma = vma.anon_next = vma.anon_prev = NIL;
    set_vma_id(m, v, ++m.h->next_vma_id);
    vma.born = m.h->clock;
    const u32 position = lower_bound(m, mm, start);
    std::copy_backward(m.vma_order + position, m.vma_order + m.h->nr_vmas, m.vma_order + m.h->nr_vmas + 1);
    m.vma_order[position] = v;
    ++m.h->nr_vmas;
    m.h->arrays[ARRAY_vma_order].used = std::max(m.h->arrays[ARRAY_vma_order].used, m.h->nr_vmas);
    ++m.mms[mm].map_count;
    return v;
}

void vma_remove(machine &m, u32 v) {
    const u32 position = lower_bound(m, m.vmas[v].vm_mm, m.vmas[v].vm_start);
    std::copy(m.vma_order + position + 1, m.vma_order + m.h->nr_vmas, m.vma_order + position);
    m.vma_order[--m.h->nr_vmas] = 0;
    --m.mms[m.vmas[v].vm_mm].map_count;
    anon_vma_unlink(m, v);
    record_free(m.h->arrays[ARRAY_vmas], m.vmas, v);
}

bool adjacent(const vm_area_struct &a, const vm_area_struct &b) {
    return a.vm_mm == b.vm_mm && a.vm_end == b.vm_start && !((a.vm_flags | b.vm_flags) & VM_FILE) &&
           b.vm_pgoff == a.vm_pgoff + ((a.vm_end - a.vm_start) >> PAGE_SHIFT);
}

// can_vma_merge_after, but for the masks.
bool compatible(const machine &m, const vm_area_struct &a, const vm_area_struct &b) {
    return adjacent(a, b) && a.vm_flags == b.vm_flags &&
           (a.anon_vma == b.anon_vma || (a.anon_vma == NIL && anon_vma_singular(m, b.anon_vma)) ||
            (b.anon_vma == NIL && anon_vma_singular(m, a.anon_vma)));
}

// E1: different masks keep VMAs apart.
bool can_merge(const machine &m, const vm_area_struct &a, const vm_area_struct &b) {
    return compatible(m, a, b) && a.orders == b.orders;
}

// E1: a new mapping that makes another one longer takes its mask.
void inherit_orders(machine &m, u32 v) {
    vm_area_struct &vma = m.vmas[v];
    const u32 prev = vma_prev(m, v), next = vma_next(m, v);
    if (prev != NIL && compatible(m, m.vmas[prev], vma)) {
        vma.orders = m.vmas[prev].orders;
    } else if (next != NIL && compatible(m, vma, m.vmas[next])) {
        vma.orders = m.vmas[next].orders;
    }
}

// The larger part keeps its identity and its statistics.
void merge(machine &m, u32 a, u32 b) {
    vm_area_struct &left = m.vmas[a], &right = m.vmas[b];
    if (right.vm_end - right.vm_start > left.vm_end - left.vm_start) {
        order_answers_move(m, left.id, right.id, left.vm_start, left.vm_end, 0);
        set_vma_id(m, a, right.id);
        left.born = right.born;
        left.asked = right.asked;
    } else {
        order_answers_move(m, right.id, left.id, right.vm_start, right.vm_end, 0);
    }
    for (u32 order = 0; order <= PMD_ORDER; ++order) left.faults[order] += right.faults[order];
    for (u32 kind = 0; kind < NR_TIMES; ++kind) left.times[kind] += right.times[kind];
    left.zapped += right.zapped;
    left.zap_calls += right.zap_calls;
    const u32 anon = right.anon_vma;
    const u64 end = right.vm_end;
    if (left.anon_vma == NIL && anon != NIL) anon_vma_link(m, a, anon);
    vma_remove(m, b);
    left.vm_end = end;
    anon_vma_update(m, a);
    khugepaged_enter_vma(m, a, left.vm_flags);
}

} // namespace

u32 mm_create(machine &m) {
    const u32 mm = record_alloc(m.h->arrays[ARRAY_mms], m.mms);
    if (mm == NIL) return NIL;
    m.mms[mm].pgd = table_page_alloc(m, GFP_KERNEL);
    if (m.mms[mm].pgd == NIL) {
        record_free(m.h->arrays[ARRAY_mms], m.mms, mm);
        return NIL;
    }
    m.mms[mm].in_use = 1;
    m.mms[mm].mmap_base = TASK_SIZE - (128ULL << 20);
    return mm;
}

u32 vma_dup(machine &m, u32 vma, u32 mm) {
    const vm_area_struct old = m.vmas[vma];
    const u32 v = vma_create(m, mm, old.vm_start, old.vm_end);
    if (v == NIL) return NIL;
    m.vmas[v].vm_flags = old.vm_flags & ~u32{VM_LOCKED}; // locks are not inherited
    m.vmas[v].vm_pgoff = old.vm_pgoff;
    m.vmas[v].orders = old.orders;
    m.vmas[v].vm_file = old.vm_file;
    m.vmas[v].file_pages = old.file_pages;
    m.vmas[v].swap_readahead = old.swap_readahead;
    return v;
}

int mm_exit(machine &m, u32 mm, call_progress *call) {
    if (do_munmap(m, mm, 0, TASK_SIZE, call) == -EPAUSED) return -EPAUSED;
    table_page_free(m, m.mms[mm].pgd);
    if (m.mms[mm].huge_zero) --m.h->huge_zero_users;
    flush_tlb_mm(m, mm);
    record_free(m.h->arrays[ARRAY_mms], m.mms, mm);
    if (m.h->current_mm == mm) m.h->current_mm = NIL;
    return 0;
}

u32 find_vma(const machine &m, u32 mm, u64 address) {
    return at_position(m, lower_bound(m, mm, address), mm);
}

u32 vma_lookup(const machine &m, u32 mm, u64 address) {
    const u32 v = find_vma(m, mm, address);
    return v != NIL && m.vmas[v].vm_start <= address ? v : NIL;
}

u32 vma_next(const machine &m, u32 vma) { return find_vma(m, m.vmas[vma].vm_mm, m.vmas[vma].vm_end); }

u32 vma_prev(const machine &m, u32 vma) {
    const u32 position = lower_bound(m, m.vmas[vma].vm_mm, m.vmas[vma].vm_start);
    return position ? at_position(m, position - 1, m.vmas[vma].vm_mm) : NIL;
}

u32 find_mergeable_anon_vma(const machine &m, u32 vma) {
    const vm_area_struct &v = m.vmas[vma];
    constexpr u32 ignored = VM_READ | VM_WRITE; // anon_vma_compatible ignores VM_ACCESS_FLAGS
    const u32 next = vma_next(m, vma), prev = vma_prev(m, vma);
    if (next != NIL && adjacent(v, m.vmas[next]) && !((v.vm_flags ^ m.vmas[next].vm_flags) & ~ignored) &&
        m.vmas[next].anon_vma != NIL && anon_vma_singular(m, m.vmas[next].anon_vma))
        return m.vmas[next].anon_vma;
    if (prev != NIL && adjacent(m.vmas[prev], v) && !((v.vm_flags ^ m.vmas[prev].vm_flags) & ~ignored) &&
        m.vmas[prev].anon_vma != NIL && anon_vma_singular(m, m.vmas[prev].anon_vma))
        return m.vmas[prev].anon_vma;
    return NIL;
}

int split_vma(machine &m, u32 vma, u64 address) {
    if (!split_huge_pmd_if_needed(m, vma, address)) return -ENOMEM;
    const vm_area_struct old = m.vmas[vma];
    const bool upper_is_larger = old.vm_end - address > address - old.vm_start;
    m.vmas[vma].vm_end = address; // before the new one takes its place in the order
    const u32 v = vma_create(m, old.vm_mm, address, old.vm_end);
    if (v == NIL) {
        m.vmas[vma].vm_end = old.vm_end;
        return -ENOMEM;
    }
    vm_area_struct &upper = m.vmas[v], &lower = m.vmas[vma];
    upper.vm_flags = old.vm_flags;
    upper.orders = old.orders;
    upper.vm_file = old.vm_file;
    upper.file_pages = old.file_pages;
    upper.swap_readahead = old.swap_readahead;
    upper.vm_pgoff = old.vm_pgoff + ((address - old.vm_start) >> PAGE_SHIFT);
    upper.born = old.born;
    if (old.anon_vma != NIL) anon_vma_link(m, v, old.anon_vma);
    anon_vma_update(m, vma);
    if (upper_is_larger) {
        swap_vma_ids(m, v, vma);
        std::swap(upper.faults, lower.faults);
        std::swap(upper.zapped, lower.zapped);
        std::swap(upper.asked, lower.asked);
        std::swap(upper.times, lower.times);
        std::swap(upper.zap_calls, lower.zap_calls);
    }
    const vm_area_struct &smaller = upper_is_larger ? lower : upper;
    order_answers_move(m, old.id, smaller.id, smaller.vm_start, smaller.vm_end, address);
    m.spend(TIME_syscall, m.cost().split_vma);
    return 0;
}

void vma_merge_range(machine &m, u32 mm, u64 start, u64 end) {
    u32 v = start ? vma_lookup(m, mm, start - 1) : NIL;
    if (v == NIL) v = find_vma(m, mm, start);
    while (v != NIL && m.vmas[v].vm_end <= end) {
        const u32 next = vma_next(m, v);
        if (next == NIL) return;
        if (can_merge(m, m.vmas[v], m.vmas[next])) {
            // Linux makes a neighbour longer, here the one above.
            if (m.vmas[v].vm_start >= start && m.vmas[next].vm_start >= end)
                m.vmas[v].swap_readahead = m.vmas[next].swap_readahead;
            merge(m, v, next);
        } else {
            v = next;
        }
    }
}

int vma_expand(machine &m, u32 vma, u64 end) {
    const u32 next = vma_next(m, vma);
    if ((next != NIL && m.vmas[next].vm_start < end) || end > TASK_SIZE) return -EFAULT;
    m.vmas[vma].vm_end = end;
    anon_vma_update(m, vma);
    khugepaged_enter_vma(m, vma, m.vmas[vma].vm_flags);
    vma_merge_range(m, m.vmas[vma].vm_mm, m.vmas[vma].vm_start, end);
    return 0;
}

int do_mmap(machine &m, u32 mm, u64 address, u64 length, u32 vm_flags, u32 vm_file) {
    const u64 end = address + length;
    if (length == 0 || end > TASK_SIZE || end < address) return -ENOMEM;
    if (int error = do_munmap(m, mm, address, end)) return error;
    const u32 v = vma_create(m, mm, address, end);
    if (v == NIL) return -ENOMEM;
    m.vmas[v].vm_flags = vm_flags;
    m.vmas[v].vm_file = vm_file;
    if (vm_file) {
        m.vmas[v].vm_pgoff = 0;
        m.vmas[v].file_pages = static_cast<u32>(length >> PAGE_SHIFT);
    }
    inherit_orders(m, v);
    vma_merge_range(m, mm, address, end);
    return 0;
}

int do_munmap(machine &m, u32 mm, u64 start, u64 end, call_progress *call) {
    u32 v = find_vma(m, mm, start);
    if (v == NIL || m.vmas[v].vm_start >= end) return 0;
    if (m.vmas[v].vm_start < start) {
        if (int error = split_vma(m, v, start)) return error;
    }
    const u32 last = vma_lookup(m, mm, end - 1);
    if (last != NIL && m.vmas[last].vm_end > end) {
        if (int error = split_vma(m, last, end)) return error;
    }
    for (v = find_vma(m, mm, start); v != NIL && m.vmas[v].vm_start < end; v = find_vma(m, mm, start)) {
        if (!zap_page_range(m, v, m.vmas[v].vm_start, m.vmas[v].vm_end, false, call))
            return call && call->reached ? -EPAUSED : -ENOMEM;
        vma_remove(m, v);
    }
    const u32 position = lower_bound(m, mm, start);
    const u32 next = at_position(m, position, mm), prev = position ? at_position(m, position - 1, mm) : NIL;
    free_pgtables(m, mm, start, end, prev == NIL ? 0 : m.vmas[prev].vm_end,
                  next == NIL ? 1ULL << 47 : m.vmas[next].vm_start);
    return 0;
}

int do_brk(machine &m, u32 mm, u64 brk) {
    mm_struct &owner = m.mms[mm];
    const u64 old = align_up(owner.brk, PAGE_SIZE), end = align_up(brk, PAGE_SIZE);
    if (brk < owner.start_brk) return -EINVAL;
    int error = 0;
    if (end > old) {
        const u32 v = find_vma(m, mm, old);
        if (v != NIL && m.vmas[v].vm_start < end) return -ENOMEM;
        error = do_mmap(m, mm, old, end - old, VM_READ | VM_WRITE);
    } else if (end < old) {
        error = do_munmap(m, mm, end, old);
    }
    if (!error) owner.brk = brk;
    return error;
}

int set_vma_orders(machine &m, u32 mm, u64 start, u64 end, u32 orders) {
    return vma_modify(
        m, mm, start, end, GO_ON,
        [&](const vm_area_struct &v) { return v.orders != orders && !(v.vm_flags & VM_FILE); },
        [&](u32 v) {
            m.vmas[v].orders = orders;
            khugepaged_enter_vma(m, v, m.vmas[v].vm_flags);
        });
}

namespace {

// vm_unmapped_area_topdown: the highest gap below mmap_base.
u64 highest_gap(const machine &m, u32 mm, u64 room) {
    u64 ceiling = m.mms[mm].mmap_base;
    u32 position = lower_bound(m, mm, ceiling);
    // A VMA that reaches over the base ends the first gap.
    if (u32 v = at_position(m, position, mm); v != NIL) ceiling = std::min(ceiling, m.vmas[v].vm_start);
    for (;;) {
        const u32 prev = position ? at_position(m, position - 1, mm) : NIL;
        const u64 floor = prev == NIL ? PAGE_SIZE * 16 : m.vmas[prev].vm_end; // mmap_min_addr
        if (ceiling > floor && ceiling - floor >= room) return ceiling - room;
        if (prev == NIL) return 0;
        ceiling = std::min(ceiling, m.vmas[prev].vm_start);
        --position;
    }
}

} // namespace

u64 get_unmapped_area(const machine &m, u32 mm, u64 length) {
    if (length % PMD_SIZE == 0) { // __get_unmapped_area: only such lengths are aligned
        // __thp_get_unmapped_area: top down, an aligned result moves up by the padding that it did not need.
        const u64 gap = highest_gap(m, mm, length + PMD_SIZE);
        if (gap) return align_down(gap, PMD_SIZE) + PMD_SIZE;
    }
    return highest_gap(m, mm, length);
}

} // namespace thp
