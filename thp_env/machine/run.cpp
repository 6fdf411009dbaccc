#include "run.hpp"
#include "access_stream.hpp"
#include "kernel/compaction.hpp"
#include "kernel/filemap.hpp"
#include "kernel/fork.hpp"
#include "kernel/gup.hpp"
#include "kernel/huge_memory.hpp"
#include "kernel/huge_memory_bpf.hpp"
#include "kernel/khugepaged.hpp"
#include "kernel/kswapd.hpp"
#include "kernel/lru.hpp"
#include "kernel/madvise.hpp"
#include "kernel/memcontrol.hpp"
#include "kernel/memory.hpp"
#include "kernel/mmap.hpp"
#include "kernel/page_alloc.hpp"
#include "kernel/pollution.hpp"
#include "kernel/swap.hpp"
#include "patterns.hpp"
#include <algorithm>
#include <cerrno>

namespace thp {

namespace {

constexpr u64 SLOT_BASE = 0x10000000000ULL, SLOT_SIZE = 1ULL << 31; // where named regions stand by default

constexpr u64 BRK_START = 0x555555800000ULL; // behind a position-independent executable

enum step_result : u32 { STEP_DONE, STEP_PAUSED, STEP_OOM, STEP_FAULTED, STEP_NEED_ORDER };

struct interpreter {
    machine &m;
    const program_view &p;
    run_budget &budget;
    const u64 choices_at_start;
    const bool charge_vmas;

    bool choices_over() const { return m.h->vm[VM_fault_with_choice] - choices_at_start >= budget.choices; }

    // Spends the time of what follows for the VMA that holds the address.
    void charge(mmu &unit, u64 address) {
        u32 &charged = m.h->charged;
        if (charged != NIL && address >= m.vmas[charged].vm_start && address < m.vmas[charged].vm_end) return;
        unit.commit();
        charged = vma_lookup(m, unit.mm, address);
    }

    step_result fault(mmu &unit, u64 address, bool write) {
        unit.commit();
        const u32 v = vma_lookup(m, unit.mm, address);
        const u32 needed = write ? VM_WRITE : VM_READ;
        if (v == NIL || !(m.vmas[v].vm_flags & needed)) return STEP_FAULTED;
        const vm_fault result = handle_mm_fault(m, v, address, write);
        unit.commit(); // the fault took time
        if (choices_over()) unit.stop();
        switch (result) {
        case FAULT_OOM:
            return STEP_OOM;
        case FAULT_NEED_ORDER:
            return STEP_NEED_ORDER;
        case FAULT_SIGSEGV:
            return STEP_FAULTED;
        default:
            return STEP_DONE;
        }
    }

    // One access with its faults. waited: it begins with the fault that has waited for an order.
    template <typename Waited>
    step_result access(mmu &unit, u64 address, bool write, u8 content, Waited waited) {
        if (charge_vmas) charge(unit, address);
        if (waited) {
            m.h->question = {};
            if (step_result result = fault(unit, address, write); result != STEP_DONE) return result;
        }
        mmu_result done =
            waited ? unit.walk_again(address, write, content) : unit.access(address, write, content);
        while (done == MMU_FAULT) {
            if (step_result result = fault(unit, address, write); result != STEP_DONE) return result;
            done = unit.walk_again(address, write, content);
        }
        return STEP_DONE;
    }

    // Where the fast path could do nothing, it is tried again after so many steps, and less and less often.
    u32 pause = 0, pauses = 0;

    bool answered() const { return m.h->question.state == ORDER_ANSWERED; }

    // One step of a block.
    template <typename Waited> step_result step(mmu &unit, const access_block &b, u64 i, Waited waited) {
        if (unit.out_of_time()) return STEP_PAUSED;
        if (!waited) unit.compute(b.ps[i]);
        const step_result result = access(unit, b.address[i], b.write[i], b.content, waited);
        if (result == STEP_DONE && b.count[i] > 1) unit.again(b.count[i] - 1);
        return result;
    }

    // As many of the steps [at, end) of a block as are usual, and spend time for the VMA that is charged.
    u64 fast_steps(mmu &unit, const access_block &b, u64 at, u64 end) {
        if (!charge_vmas) return unit.access_fast(b, at, end, 0, ~0ULL);
        if (m.h->charged == NIL) return 0;
        const vm_area_struct &v = m.vmas[m.h->charged];
        return unit.access_fast(b, at, end, v.vm_start, v.vm_end - v.vm_start);
    }

    // Steps of a block, the usual ones by the fast path, until one is not done. How many were.
    u64 block_steps(mmu &unit, access_block &b, u64 end, step_result *result) {
        for (u64 at = 0; at < end; ++at) {
            if (budget.fast && pause == 0) {
                const u64 done = fast_steps(unit, b, at, end);
                at += done;
                if (at == end) break;
                pauses = done ? 0 : std::min(2 * pauses + 1, 31U);
                pause = pauses;
            } else if (pause) {
                --pause;
            }
            const u64 faults = m.h->vm[VM_pgfault];
            *result = step(unit, b, at, std::false_type());
            if (*result != STEP_DONE) return at;                // a step that failed is not done
            if (m.h->vm[VM_pgfault] != faults) b.ahead = false; // tables may have changed
        }
        return end;
    }

    // Runs accesses of the current operation until it ends, the window ends or one fails.
    step_result accesses(const op_record &op, u32 mm) {
        const access_stream stream(m, p, op);
        mmu unit(m, mm, stream.weight(), budget.until);
        access_block b;
        b.content = stream.content();
        b.ahead = false;
        u64 at = m.h->at.step;
        const u64 start = at, count = stream.count();
        const u64 stop = budget.accesses < count - at ? at + budget.accesses : count;
        step_result result = STEP_DONE;
        if (choices_over()) unit.stop();
        if (answered()) {
            stream.write(b, at, 1);
            result = step(unit, b, 0, std::true_type());
            at += result == STEP_DONE;
        }
        u64 most = 8; // a run that is cut soon makes few for nothing
        while (at < stop && result == STEP_DONE) {
            const u64 nr = std::min(stop - at, most);
            most = std::min(2 * most, access_block::SIZE);
            stream.write(b, at, nr);
            unit.look_ahead(b, nr);
            at += block_steps(unit, b, nr, &result);
        }
        m.h->at.step = at;
        budget.accesses -= at - start;
        unit.commit();
        m.h->charged = NIL;
        return result == STEP_DONE && at < count ? STEP_PAUSED : result;
    }

    u64 slot(u64 length, u64 align, u64 offset) {
        u64 base = align_up(SLOT_BASE + m.h->next_slot * SLOT_SIZE, align) + offset;
        m.h->next_slot += static_cast<u32>((length + offset + align + SLOT_SIZE - 1) / SLOT_SIZE);
        return base;
    }

    int mmap_op(const op_record &op, u32 mm) {
        u64 address = op.a;
        if (op.c == AT_SLOT) address = slot(op.length, op.a, op.b);
        if (op.c == AT_UNMAPPED_AREA) address = get_unmapped_area(m, mm, op.length);
        if (op.c == AT_REGION) address = m.regions[op.aux].start + op.a;
        if (address == 0) return -ENOMEM;
        m.regions[op.region] = {address, op.length};
        const u32 file = op.d & VM_FILE ? file_create(m, op.length >> PAGE_SHIFT) : 0;
        if ((op.d & VM_FILE) && !file) return -ENFILE;
        return do_mmap(m, mm, address, op.length, static_cast<u32>(op.d), file);
    }

    int mremap_op(const op_record &op, u32 mm) {
        const u64 from = m.regions[op.region].start + op.offset;
        const u64 new_length = op.c == AT_SLOT ? op.length : op.a;
        u64 to = from;
        if (op.c == AT_SLOT) {
            to = slot(new_length, op.a, op.b);
        } else if (op.c == AT_ADDRESS) {
            to = op.d;
        } else if (new_length > op.length) { // in place if the neighbour leaves room
            const u32 v = find_vma(m, mm, from + op.length);
            const bool blocked = v != NIL && m.vmas[v].vm_start < from + new_length;
            if (blocked || from + new_length > TASK_SIZE) to = get_unmapped_area(m, mm, new_length);
        }
        if (to == 0) return -ENOMEM;
        m.regions[op.aux] = {to, new_length};
        return mremap(m, mm, from, op.length, to, new_length);
    }

    int brk_op(const op_record &op, u32 mm) {
        const u64 start = m.mms[mm].start_brk;
        if (start == 0) return -ENOMEM;
        m.regions[op.region] = {start, op.length};
        return do_brk(m, mm, start + op.length);
    }

    // One that returns -ENEEDORDER has done a part of its work and begins anew: what is done stays done.
    int system_call(const op_record &op, u32 mm) {
        const u64 start =
            op.region < m.h->tables[TABLE_regions].used ? m.regions[op.region].start + op.offset : 0;
        const u64 end = start + op.length;
        // Pages are populated in order: those before the one that had to wait are there.
        const u64 populated = answered() ? m.h->question.address : start;
        if (!answered()) m.spend(TIME_syscall, m.cost().syscall);
        m.h->question = {};
        switch (op.op) {
        case OP_mmap:
            return mmap_op(op, mm);
        case OP_mremap:
            return mremap_op(op, mm);
        case OP_brk:
            return brk_op(op, mm);
        case OP_munmap:
            return do_munmap(m, mm, start, end);
        case OP_mprotect:
            return mprotect(m, mm, start, end, static_cast<u32>(op.a));
        case OP_advise:
            if (op.a == MADV_POPULATE_READ || op.a == MADV_POPULATE_WRITE)
                return do_madvise(m, mm, populated, end - populated, op.a);
            return do_madvise(m, mm, start, op.length, op.a);
        case OP_mlock:
            return mlock(m, mm, start, end, true);
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
            apply_setting(m, static_cast<u32>(op.a), static_cast<u32>(op.b));
            return 0;
        case OP_pin:
            return pin_range(m, mm, start, end, op.process);
        case OP_unpin:
            unpin(m, op.process);
            return 0;
        case OP_fork: {
            const u32 child = dup_mm(m, mm);
            m.processes[op.aux] = child;
            return child == NIL ? -ENOMEM : 0;
        }
        case OP_shrink:
            deferred_split_scan(m, m.h->deferred_len);
            return 0;
        case OP_swap:
            return swapon(m, op.length);
        case OP_khugepaged:
            for (u64 &round = m.h->at.step; round < op.a; ++round) {
                if (int error = khugepaged_scan(m)) return error;
            }
            return 0;
        case OP_pollute:
            return pollute(m, op.a, mix64(p.seed ^ mix64(m.h->at.op + 1)));
        case OP_fragment:
            return fragment(m, static_cast<u32>(op.a), static_cast<u32>(op.b),
                            mix64(p.seed ^ mix64(m.h->at.op + 1)));
        case OP_compact:
            compact_memory(m);
            return 0;
        case OP_reclaim:
            mem_cgroup_force_empty(m);
            return 0;
        case OP_limit:
            return mem_cgroup_resize_max(m, op.length >> PAGE_SHIFT);
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
            if (gone == NIL) return -ESRCH;
            m.processes[op.aux] = NIL;
            unpin(m, op.aux);
            mm_exit(m, gone);
            return 0;
        }
        default:
            return -ENOSYS;
        }
    }

    step_result execute(const op_record &op) {
        const u32 mm = m.processes[op.process];
        if (mm == NIL) {
            m.h->at.error = -ESRCH;
            return STEP_FAULTED;
        }
        m.h->at.error = 0;
        step_result result = STEP_DONE;
        switch (op.op) {
        case OP_touch:
        case OP_access:
        case OP_replay:
            result = accesses(op, mm);
            break;
        case OP_compute:
            m.spend(TIME_compute, op.a);
            break;
        default:
            m.h->at.error = system_call(op, mm);
            if (m.h->at.error == -ENEEDORDER) {
                m.h->at.error = 0;
                return STEP_NEED_ORDER;
            }
        }
        if (result == STEP_FAULTED) m.h->at.error = -EFAULT;
        return m.h->at.error ? STEP_FAULTED : result;
    }

    bool made_new_vma(const op_record &op, u32 first_id) const {
        if (op.op != OP_mmap && op.op != OP_brk && op.op != OP_mremap) return false;
        const region &r = m.regions[op.op == OP_mremap ? op.aux : op.region];
        const u32 mm = m.processes[op.process];
        const u32 v = mm == NIL || r.length == 0 ? NIL : vma_lookup(m, mm, r.start);
        return v != NIL && m.vmas[v].id > first_id && !(m.vmas[v].vm_flags & VM_FILE) &&
               m.vmas[v].vm_end - m.vmas[v].vm_start >= 16 * PAGE_SIZE;
    }
};

} // namespace

bool boot(machine &m, u64 brk_start, u64 mmap_base) {
    const u32 mm = mm_create(m);
    if (mm == NIL) return false;
    m.processes[0] = mm;
    m.h->current_mm = mm;
    m.mms[mm].start_brk = m.mms[mm].brk = brk_start ? brk_start : BRK_START;
    if (mmap_base) m.mms[mm].mmap_base = mmap_base;
    return true;
}

void apply_setting(machine &m, u32 which, u32 value) {
    u32 *const settings[NR_SETTINGS] = {&m.h->thp_enabled,      &m.h->use_zero_page,   &m.h->shrink_underused,
                                        &m.h->max_ptes_none,    &m.h->max_ptes_shared, &m.h->max_ptes_swap,
                                        &m.h->thp_defrag,       &m.h->swappiness,      &m.h->lru_batches,
                                        &m.h->khugepaged_defrag};
    *settings[which] = value;
    if (which == SET_ENABLED) setup_per_zone_wmarks(m);
    if (!m.h->lru_batches) lru_add_drain(m);
}

run_status run(machine &m, const program_view &program, run_budget &budget) {
    interpreter i{m, program, budget, m.h->vm[VM_fault_with_choice], m.h->config.charge_vmas != 0};
    cursor &at = m.h->at;
    if (m.h->question.state == ORDER_ASKED) return RUN_NEED_ORDER;
    const u64 until = budget.until;
    for (u64 done = 0; at.op < program.nr_ops; ++done) {
        if (m.h->clock >= khugepaged_due(m)) khugepaged_do_scan(m);
        if (done >= budget.ops || m.h->clock >= until || budget.accesses == 0) return RUN_WINDOW;
        budget.until = std::min(until, khugepaged_due(m));
        const op_record &op = program.ops[at.op];
        const u32 first_id = m.h->next_vma_id;
        const step_result result = i.execute(op);
        run_daemons(m);
        memory_tick(m);
        if (result == STEP_PAUSED) {
            if (budget.until == until || m.h->clock < budget.until || m.h->clock >= until) return RUN_WINDOW;
            --done; // only the daemon is due
            continue;
        }
        if (result == STEP_NEED_ORDER) return RUN_NEED_ORDER;
        if (result == STEP_OOM) {
            m.count(VM_oom_kill);
            return RUN_OOM;
        }
        if (result == STEP_FAULTED && !budget.go_on) return RUN_ERROR;
        ++at.op;
        at.step = 0;
        if (budget.new_vma && at.op < program.nr_ops && i.made_new_vma(op, first_id)) return RUN_WINDOW;
        if (i.choices_over() && at.op < program.nr_ops) return RUN_WINDOW;
    }
    return RUN_DONE;
}

} // namespace thp
