#include "system_call.hpp"
#include "fragmentation.hpp"
#include "hints.hpp"
#include "kernel/compaction.hpp"
#include "kernel/filemap.hpp"
#include "kernel/fork.hpp"
#include "kernel/gup.hpp"
#include "kernel/huge_memory.hpp"
#include "kernel/khugepaged.hpp"
#include "kernel/lru.hpp"
#include "kernel/madvise.hpp"
#include "kernel/memcontrol.hpp"
#include "kernel/mmap.hpp"
#include "kernel/page_alloc.hpp"
#include "kernel/swap.hpp"
#include "patterns.hpp"
#include <algorithm>
#include <cerrno>

namespace thp {

namespace {

constexpr u64 SLOT_BASE = 0x10000000000ULL, SLOT_SIZE = 1ULL << 31; // where named regions stand by default

// 0 when there is no room.
u64 slot(machine &m, u64 length, u64 align, u64 offset) {
    const u64 base = align_up(SLOT_BASE + m.h->next_slot * SLOT_SIZE, align) + offset;
    if (base + length > TASK_SIZE) return 0;
    m.h->next_slot += static_cast<u32>((length + offset + align + SLOT_SIZE - 1) / SLOT_SIZE);
    return base;
}

int mmap_op(machine &m, const op_record &op, u32 mm) {
    u64 address = op.a;
    if (op.c == AT_SLOT) address = slot(m, op.length, op.a, op.b);
    if (op.c == AT_UNMAPPED_AREA) address = get_unmapped_area(m, mm, op.length);
    if (op.c == AT_REGION) address = m.regions[op.aux].start + op.a;
    if (address == 0 || op.length > TASK_SIZE || address > TASK_SIZE - op.length) return -ENOMEM;
    m.regions[op.region] = {address, op.length};
    const u32 file = op.d & VM_FILE ? file_create(m, op.length >> PAGE_SHIFT) : 0;
    if ((op.d & VM_FILE) && !file) return -ENFILE;
    return do_mmap(m, mm, address, op.length, static_cast<u32>(op.d), file);
}

int mremap_op(machine &m, const op_record &op, u32 mm) {
    const u64 from = m.regions[op.region].start + op.offset;
    const u64 new_length = op.c == AT_SLOT ? op.length : op.a;
    const bool fixed = op.c == AT_SLOT || op.c == AT_ADDRESS; // MREMAP_FIXED
    u64 to = from;
    if (op.c == AT_SLOT) {
        to = slot(m, new_length, op.a, op.b);
    } else if (op.c == AT_ADDRESS) {
        to = op.d;
    }
    if (int error = check_mremap_params(from, op.length, to, new_length, fixed)) return error;
    if (!fixed && new_length > op.length) { // in place if the neighbour leaves room
        const u32 v = find_vma(m, mm, from + op.length);
        const bool blocked = v != NIL && m.vmas[v].vm_start < from + new_length;
        if (blocked || from + new_length > TASK_SIZE) to = get_unmapped_area(m, mm, new_length);
    }
    if (to == 0) return -ENOMEM;
    m.regions[op.aux] = {to, new_length};
    return mremap(m, mm, from, op.length, to, new_length);
}

int brk_op(machine &m, const op_record &op, u32 mm) {
    const u64 start = m.mms[mm].start_brk;
    if (start == 0) return -ENOMEM;
    m.regions[op.region] = {start, op.length};
    return do_brk(m, mm, start + op.length);
}

// A round in which there was nothing to scan changes nothing, and neither do those that follow.
int khugepaged_rounds(machine &m, u64 rounds, u64 until) {
    u64 &round = m.h->at.step;
    for (bool scanned = true; round < rounds && scanned; ++round) {
        if (round && (m.h->clock >= until || m.host.stop)) return -EPAUSED;
        if (int error = khugepaged_scan(m, &scanned)) return error;
    }
    return 0;
}

} // namespace

int system_call(machine &m, const program_view &p, const op_record &op, u32 mm, u64 until) {
    const u64 start =
        op.region < m.h->arrays[ARRAY_regions].used ? m.regions[op.region].start + op.offset : 0;
    const u64 end = start + op.length;
    const bool answered = m.h->question.state == ORDER_ANSWERED;
    // Pages are populated in order: those before the one that had to wait are there.
    call_progress &call = m.h->at.call;
    if (answered) call = {};
    const u64 populated = answered ? m.h->question.address : std::max(start, call.reached);
    if (!answered && m.h->at.step == 0 && !call.reached) m.spend(TIME_syscall, m.cost().syscall);
    m.h->question = {};
    switch (op.op) {
    case OP_mmap:
        return mmap_op(m, op, mm);
    case OP_mremap:
        return mremap_op(m, op, mm);
    case OP_brk:
        return brk_op(m, op, mm);
    case OP_munmap:
        return do_munmap(m, mm, start, end, &call);
    case OP_mprotect:
        return mprotect(m, mm, start, end, static_cast<u32>(op.a));
    case OP_advise:
        if (op.a == MADV_POPULATE_READ || op.a == MADV_POPULATE_WRITE)
            return madvise_populate(m, mm, populated, end, op.a == MADV_POPULATE_WRITE, &call);
        return do_madvise(m, mm, start, op.length, op.a);
    case OP_mlock:
        return mlock(m, mm, start, end, true, &call);
    case OP_munlock:
        return mlock(m, mm, start, end, false);
    case OP_orders:
        return set_vma_orders(m, mm, start, end, static_cast<u32>(op.a));
    case OP_split:
        split_folios_in_range(m, mm, start, end);
        return 0;
    case OP_prctl:
        m.mms[mm].thp_disable = op.a ? (op.b ? 2 : 1) : 0;
        return 0;
    case OP_thp:
        m.h->thp_mode[op.a] = static_cast<u32>(op.b);
        setup_per_zone_wmarks(m);
        return 0;
    case OP_set:
        if (!mem_cgroup_made(m, op.aux)) return -ENOENT;
        apply_setting(m, static_cast<u32>(op.a), static_cast<u32>(op.b), op.aux);
        return 0;
    case OP_pin:
        return pin_range(m, mm, start, end, op.process);
    case OP_unpin:
        unpin(m, op.process);
        return 0;
    case OP_fork: {
        if (m.processes[op.aux] != NIL) return -EEXIST;
        const u32 child = dup_mm(m, mm);
        m.processes[op.aux] = child;
        return child == NIL ? -ENOMEM : 0;
    }
    case OP_shrink:
        for (u32 g = 0; g < nr_memcgs(m); ++g) deferred_split_scan(m, g, m.memcgs[g].deferred_len);
        return 0;
    case OP_swap:
        return swapon(m, op.length);
    case OP_khugepaged:
        return khugepaged_rounds(m, op.a, until);
    case OP_pollute:
        return pollute(m, op.a, mix64(p.seed ^ mix64(m.h->at.op + 1)));
    case OP_fragment:
        return fragment(m, static_cast<u32>(op.a), static_cast<u32>(op.b),
                        mix64(p.seed ^ mix64(m.h->at.op + 1)));
    case OP_compact:
        compact_memory(m);
        return 0;
    case OP_reclaim:
        if (!mem_cgroup_made(m, op.aux)) return -ENOENT;
        mem_cgroup_force_empty(m, op.aux);
        return 0;
    case OP_limit:
        return mem_cgroup_resize_max(m, op.aux, op.length >> PAGE_SHIFT);
    case OP_cgroup:
        return mem_cgroup_attach(m, mm, op.aux);
    case OP_swapoff:
        return swapoff(m);
    case OP_drain:
        lru_add_drain(m);
        return 0;
    case OP_slice:
        m.h->current_mm = mm;
        return 0;
    case OP_exit: {
        const u32 gone = m.processes[op.aux];
        if (gone == NIL) return m.oom_killed[op.aux] ? 0 : -ESRCH;
        if (!call.reached) unpin(m, op.aux);
        if (int error = mm_exit(m, gone, &call)) return error;
        m.processes[op.aux] = NIL;
        return 0;
    }
    default:
        return hint_call(m, p, op, mm);
    }
}

} // namespace thp
