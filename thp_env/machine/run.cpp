#include "run.hpp"
#include "access_stream.hpp"
#include "hardware/refill.hpp"
#include "kernel/huge_memory.hpp"
#include "kernel/khugepaged.hpp"
#include "kernel/kswapd.hpp"
#include "kernel/lru.hpp"
#include "kernel/memcontrol.hpp"
#include "kernel/memory.hpp"
#include "kernel/mmap.hpp"
#include "kernel/page_alloc.hpp"
#include "monitor.hpp"
#include "patterns.hpp"
#include "system_call.hpp"
#include <algorithm>
#include <cerrno>

namespace thp {

namespace {

constexpr u64 BRK_START = 0x555555800000ULL; // behind a position-independent executable

constexpr u32 LAST_VMA_ID = 0xffff0000U; // beyond it there is room for one more operation

// STEP_CUT: paused in a system call, which is over only when it is.
enum step_result : u32 { STEP_DONE, STEP_PAUSED, STEP_CUT, STEP_OOM, STEP_FAULTED, STEP_NEED_ORDER };

struct interpreter {
    machine &m;
    const program_view &p;
    run_budget &budget;
    const u64 until; // of the run; that of the budget may come sooner
    const u64 choices_at_start;
    const bool time_by_vma;

    bool choices_over() const { return m.h->vm[VM_fault_with_choice] - choices_at_start >= budget.choices; }

    // Spends the time of what follows for the VMA that holds the address.
    void attribute_time(mmu &unit, u64 address) {
        u32 &time_vma = m.h->time_vma;
        if (time_vma != NIL && address >= m.vmas[time_vma].vm_start && address < m.vmas[time_vma].vm_end)
            return;
        unit.commit();
        time_vma = vma_lookup(m, unit.mm, address);
    }

    step_result fault(mmu &unit, u64 address, bool write) {
        unit.commit();
        const u32 v = vma_lookup(m, unit.mm, address);
        const u32 needed = write ? VM_WRITE : VM_READ;
        if (v == NIL || !(m.vmas[v].vm_flags & needed)) return STEP_FAULTED;
        const vm_fault result = handle_mm_fault(m, v, address, write);
        if (unit.weight > 1) refill_tlb(m, unit.mm);
        unit.commit(); // the fault took time
        if (choices_over() || m.host.stop) unit.stop();
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
        if (time_by_vma) attribute_time(unit, address);
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

    // As many of the steps [at, end) of a block as are usual, and spend time for the VMA that it is
    // attributed to.
    u64 fast_steps(mmu &unit, const access_block &b, u64 at, u64 end) {
        if (!time_by_vma) return unit.access_fast(b, at, end, 0, ~0ULL);
        if (m.h->time_vma == NIL) return 0;
        const vm_area_struct &v = m.vmas[m.h->time_vma];
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
        u64 at = m.h->at.step;
        m.h->weight = stream.weight();
        if (m.h->weight > 1) {
            refill_tlb(m, mm);
        } else if (m.h->weight == 1 || at == 0) { // without a weight: accesses that prepare the TLB
            forget_lost(m);
        }
        mmu unit(m, mm, m.h->weight, budget.until);
        access_block b;
        b.content = stream.content();
        b.ahead = false;
        u32 &time_vma = m.h->time_vma;
        if (m.h->at.time_vma_id) time_vma = vma_of_id(m, m.h->at.time_vma_id);
        const u64 start = at, count = steps_of(op);
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
        if (result == STEP_DONE && at < count) result = STEP_PAUSED;
        // What follows is spent as if there had been no pause.
        m.h->at.time_vma_id = result != STEP_DONE && time_vma != NIL ? m.vmas[time_vma].id : 0;
        time_vma = NIL;
        return result;
    }

    step_result execute(const op_record &op) {
        const u32 mm = m.processes[op.process];
        if (mm == NIL) {
            m.h->at.error = -ESRCH;
            if (m.oom_killed[op.process]) return STEP_DONE; // what it would have done is not done
            return STEP_FAULTED;
        }
        m.h->at.error = 0;
        m.h->task_memcg = m.mms[mm].memcg;
        m.h->memcg_oom = 0;
        step_result result = STEP_DONE;
        if (DECLARATIONS[op.op].way == ACCESS) {
            result = accesses(op, mm);
        } else {
            const int error = perform(m, p, op, mm, until);
            if (error == -ENEEDORDER) return STEP_NEED_ORDER;
            if (error == -EPAUSED) return STEP_CUT;
            if (error == -ENOMEM && m.h->memcg_oom > 1) return STEP_OOM;
            m.h->at.error = error;
        }
        if (result == STEP_FAULTED) m.h->at.error = -EFAULT;
        return m.h->at.error ? STEP_FAULTED : result;
    }

    // The limit of a group that the program has made, not memory, is at its end: one of its processes is
    // killed. Whether the operation goes on; `killed`: it was its own process.
    bool oom_in_group(const op_record &op, bool *killed) {
        const u32 memcg = m.h->memcg_oom;
        m.h->memcg_oom = 0;
        if (memcg <= 1) return false;
        const u32 victim = mem_cgroup_out_of_memory(m, memcg - 1);
        *killed = victim == op.process;
        return victim != NIL;
    }

    bool made_new_vma(const op_record &op, u32 first_id) const {
        if (op.op != OP_mmap && op.op != OP_brk && op.op != OP_mremap) return false;
        const region &r = m.regions[op.op == OP_mremap ? op_mremap(op).to : op.region];
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

u32 *setting(machine &m, u32 index, u32 memcg) {
    switch (index) {
#define X(name, path, place, values)                                                                         \
    case SET_##name:                                                                                         \
        return &m.place;
        THP_SETTINGS(X)
#undef X
    default:
        return nullptr;
    }
}

void apply_setting(machine &m, u32 index, u32 value, u32 memcg) {
    *setting(m, index, memcg) = value;
    if (index == SET_ENABLED) setup_per_zone_wmarks(m);
    if (!m.h->lru_batches) lru_add_drain(m);
}

u64 steps_of(const op_record &op) {
    switch (op.op) {
    case OP_touch: {
        const op_touch touch(op);
        return touch.length ? (touch.length - 1) / touch.stride + 1 : 0;
    }
    case OP_access:
        return op_access(op).count;
    case OP_replay:
        return op_replay(op).count;
    case OP_khugepaged:
        return op_khugepaged(op).rounds;
    default:
        return 1;
    }
}

// What grows by more than a little at a time.
const char *overflow_of(const machine &m) {
    if (m.h->clock >= CLOCK_MAX) return "simulated time is over: the clock holds 2^63 ps, 106 days";
    constexpr vm_event weighted[] = {
        VM_accesses,         VM_walk_cycles,       VM_walk_ref_nested,  VM_shadow_walk_cycles,
        VM_resident_page_us, VM_untouched_page_us, VM_unmapped_page_us,
    };
    for (const vm_event event : weighted) {
        if (m.h->vm[event] >= COUNT_MAX) return "a counter has reached its end, 2^62";
    }
    return m.h->next_vma_id >= LAST_VMA_ID ? "the ids of VMAs are used up: there were 2^32" : nullptr;
}

run_status run(machine &m, const program_view &program, run_budget &budget) {
    const u64 until = budget.until;
    interpreter i{m, program, budget, until, m.h->vm[VM_fault_with_choice], m.h->config.time_by_vma != 0};
    cursor &at = m.h->at;
    if (m.h->question.state == ORDER_ASKED) return RUN_NEED_ORDER;
    at.oom = 0;
    for (u64 done = 0; at.op < program.nr_ops; ++done) {
        if (overflow_of(m)) return RUN_OVERFLOW;
        if (m.h->clock >= khugepaged_due(m) && !at.call.reached) khugepaged_do_scan(m);
        if (done >= budget.ops || m.h->clock >= until || budget.accesses == 0 || m.host.stop)
            return RUN_WINDOW;
        budget.until = std::min({until, khugepaged_due(m), CLOCK_MAX});
        const op_record &op = program.ops[at.op];
        const u32 first_id = m.h->next_vma_id;
        const step_result result = i.execute(op);
        if (result == STEP_CUT) return RUN_WINDOW;
        run_daemons(m);
        memory_tick(m);
        if (result == STEP_PAUSED) {
            const bool due = m.h->clock >= budget.until && m.h->clock < until;
            if (budget.until == until || !due) return RUN_WINDOW;
            --done; // only the daemon is due, or time is over
            continue;
        }
        if (result == STEP_NEED_ORDER) return RUN_NEED_ORDER;
        bool killed = false;
        if (result == STEP_OOM && i.oom_in_group(op, &killed)) {
            if (!killed) {
                --done;
                continue; // the same access again
            }
            m.h->at.error = -ESRCH;
        } else if (result == STEP_OOM) {
            m.count(VM_oom_kill);
            at.oom = 1;
            return RUN_OOM;
        }
        if (result == STEP_FAULTED && !budget.go_on) return RUN_ERROR;
        ++at.op;
        at.step = at.time_vma_id = 0;
        at.call = {};
        if (budget.new_vma && at.op < program.nr_ops && i.made_new_vma(op, first_id)) return RUN_WINDOW;
        if (i.choices_over() && at.op < program.nr_ops) return RUN_WINDOW;
    }
    return overflow_of(m) ? RUN_OVERFLOW : RUN_DONE;
}

} // namespace thp
