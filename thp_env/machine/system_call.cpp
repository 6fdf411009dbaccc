#include "system_call.hpp"
#include "fragmentation.hpp"
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

// A round in which there was nothing to scan changes nothing, and neither do those that follow.
int khugepaged_rounds(machine &m, u64 rounds, u64 until) {
    u64 &round = m.h->at.step;
    for (bool scanned = true; round < rounds && scanned; ++round) {
        if (round && (m.h->clock >= until || m.host.stop)) return -EPAUSED;
        if (int error = khugepaged_scan(m, &scanned)) return error;
    }
    return 0;
}

bool populates(u64 advice) { return advice == MADV_POPULATE_READ || advice == MADV_POPULATE_WRITE; }

} // namespace

u64 caller::key() const { return key_of(program.seed, m.h->at.op); }

// -- mappings

int call(const caller &by, const op_mmap &op) {
    machine &m = by.m;
    u64 address = op.address;
    if (op.placement == AT_SLOT) address = slot(m, op.length, op.align, op.slot_offset);
    if (op.placement == AT_UNMAPPED_AREA) address = get_unmapped_area(m, by.mm, op.length);
    if (op.placement == AT_REGION) address = m.regions[op.at].start + op.at_offset;
    if (address == 0 || op.length > TASK_SIZE || address > TASK_SIZE - op.length) return -ENOMEM;
    m.regions[op.region] = {address, op.length};
    const u32 file = op.flags & VM_FILE ? file_create(m, op.length >> PAGE_SHIFT) : 0;
    if ((op.flags & VM_FILE) && !file) return -ENFILE;
    return do_mmap(m, by.mm, address, op.length, op.flags, file);
}

int call(const caller &by, const op_mremap &op) {
    machine &m = by.m;
    const u64 from = m.regions[op.region].start + op.offset;
    const u64 new_length = op.placement == AT_SLOT ? op.length : op.new_length;
    const bool fixed = op.placement == AT_SLOT || op.placement == AT_ADDRESS; // MREMAP_FIXED
    u64 to = from;
    if (op.placement == AT_SLOT) {
        to = slot(m, new_length, op.align, op.slot_offset);
    } else if (op.placement == AT_ADDRESS) {
        to = op.address;
    }
    if (int error = check_mremap_params(from, op.length, to, new_length, fixed)) return error;
    if (!fixed && new_length > op.length) { // in place if the neighbour leaves room
        const u32 v = find_vma(m, by.mm, from + op.length);
        const bool blocked = v != NIL && m.vmas[v].vm_start < from + new_length;
        if (blocked || from + new_length > TASK_SIZE) to = get_unmapped_area(m, by.mm, new_length);
    }
    if (to == 0) return -ENOMEM;
    m.regions[op.to] = {to, new_length};
    return mremap(m, by.mm, from, op.length, to, new_length);
}

int call(const caller &by, const op_munmap &op) {
    const u64 start = by.start(op.region, op.offset);
    return do_munmap(by.m, by.mm, start, start + op.length, &by.m.h->at.call);
}

int call(const caller &by, const op_mprotect &op) {
    const u64 start = by.start(op.region, op.offset);
    return mprotect(by.m, by.mm, start, start + op.length, op.prot);
}

int call(const caller &by, const op_brk &op) {
    const u64 start = by.m.mms[by.mm].start_brk;
    if (start == 0) return -ENOMEM;
    by.m.regions[op.region] = {start, op.length};
    return do_brk(by.m, by.mm, start + op.length);
}

// Pages are populated in order: those before the one that had to wait are there.
int call(const caller &by, const op_advise &op) {
    const u64 start = by.start(op.region, op.offset);
    if (!populates(op.advice)) return do_madvise(by.m, by.mm, start, op.length, op.advice);
    call_progress &progress = by.m.h->at.call;
    const u64 populated = by.answered ? by.answered : std::max(start, progress.reached);
    return madvise_populate(by.m, by.mm, populated, start + op.length, op.advice == MADV_POPULATE_WRITE,
                            &progress);
}

int call(const caller &by, const op_mlock &op) {
    const u64 start = by.start(op.region, op.offset);
    return mlock(by.m, by.mm, start, start + op.length, true, &by.m.h->at.call);
}

int call(const caller &by, const op_munlock &op) {
    const u64 start = by.start(op.region, op.offset);
    return mlock(by.m, by.mm, start, start + op.length, false);
}

int call(const caller &by, const op_orders &op) {
    const u64 start = by.start(op.region, op.offset);
    return set_vma_orders(by.m, by.mm, start, start + op.length, op.mask);
}

int call(const caller &by, const op_split &op) {
    const u64 start = by.start(op.region, op.offset);
    split_folios_in_range(by.m, by.mm, start, start + op.length);
    return 0;
}

int call(const caller &by, const op_pin &op) {
    const u64 start = by.start(op.region, op.offset);
    return pin_range(by.m, by.mm, start, start + op.length, op.process);
}

int call(const caller &by, const op_unpin &op) {
    unpin(by.m, op.process);
    return 0;
}

// -- processes

int call(const caller &by, const op_compute &op) {
    by.m.spend(TIME_compute, op.ps);
    return 0;
}

int call(const caller &by, const op_slice & /*op*/) {
    by.m.h->current_mm = by.mm;
    return 0;
}

int call(const caller &by, const op_fork &op) {
    if (by.m.processes[op.child] != NIL) return -EEXIST;
    const u32 child = dup_mm(by.m, by.mm);
    by.m.processes[op.child] = child;
    return child == NIL ? -ENOMEM : 0;
}

int call(const caller &by, const op_exit &op) {
    machine &m = by.m;
    const u32 mm = m.processes[op.ending];
    if (mm == NIL) return m.oom_killed[op.ending] ? 0 : -ESRCH;
    call_progress &progress = m.h->at.call;
    if (!progress.reached) unpin(m, op.ending);
    if (int error = mm_exit(m, mm, &progress)) return error;
    m.processes[op.ending] = NIL;
    return 0;
}

int call(const caller &by, const op_prctl &op) {
    by.m.mms[by.mm].thp_disable = op.disable ? (op.flags ? 2 : 1) : 0;
    return 0;
}

int call(const caller &by, const op_cgroup &op) { return mem_cgroup_attach(by.m, by.mm, op.group); }

// -- the system

int call(const caller &by, const op_thp &op) {
    by.m.h->thp_mode[op.order] = static_cast<u32>(op.mode);
    setup_per_zone_wmarks(by.m);
    return 0;
}

int call(const caller &by, const op_set &op) {
    if (!mem_cgroup_made(by.m, op.group)) return -ENOENT;
    apply_setting(by.m, static_cast<u32>(op.path), op.value, op.group);
    return 0;
}

int call(const caller &by, const op_limit &op) {
    return mem_cgroup_resize_max(by.m, op.group, op.length >> PAGE_SHIFT);
}

int call(const caller &by, const op_reclaim &op) {
    if (!mem_cgroup_made(by.m, op.group)) return -ENOENT;
    mem_cgroup_force_empty(by.m, op.group);
    return 0;
}

int call(const caller &by, const op_shrink & /*op*/) {
    machine &m = by.m;
    for (u32 g = 0; g < nr_memcgs(m); ++g) deferred_split_scan(m, g, m.memcgs[g].deferred_len);
    return 0;
}

int call(const caller &by, const op_swap &op) { return swapon(by.m, op.length); }

int call(const caller &by, const op_swapoff & /*op*/) { return swapoff(by.m); }

int call(const caller &by, const op_drain & /*op*/) {
    lru_add_drain(by.m);
    return 0;
}

int call(const caller &by, const op_khugepaged &op) { return khugepaged_rounds(by.m, op.rounds, by.until); }

int call(const caller &by, const op_compact & /*op*/) {
    compact_memory(by.m);
    return 0;
}

int call(const caller &by, const op_pollute &op) { return pollute(by.m, op.share, by.key()); }

int call(const caller &by, const op_fragment &op) { return fragment(by.m, op.order, op.index, by.key()); }

namespace {

template <typename Op> int call_unless_accesses(const caller &by, const op_record &record) {
    if constexpr (Op::WAY == ACCESS) {
        return -ENOSYS;
    } else {
        return call(by, Op(record));
    }
}

int dispatch(const caller &by, const op_record &record) {
    switch (record.op) {
#define X(name, how, fields)                                                                                 \
    case OP_##name:                                                                                          \
        return call_unless_accesses<op_##name>(by, record);
        THP_OPS(X)
#undef X
    default:
        return -ENOSYS;
    }
}

} // namespace

int perform(machine &m, const program_view &program, const op_record &op, u32 mm, u64 until) {
    if (DECLARATIONS[op.op].way == USER) return dispatch({m, program, mm, until, 0}, op);
    const bool answered = m.h->question.state == ORDER_ANSWERED;
    const u64 waited = answered ? m.h->question.address : 0;
    call_progress &progress = m.h->at.call;
    if (answered) progress = {};
    if (!answered && m.h->at.step == 0 && !progress.reached) m.spend(TIME_syscall, m.cost().syscall);
    m.h->question = {};
    return dispatch({m, program, mm, until, waited}, op);
}

} // namespace thp
