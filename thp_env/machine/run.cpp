#include "run.hpp"
#include "hardware/walker.hpp"
#include "kernel/huge_memory.hpp"
#include "kernel/khugepaged.hpp"
#include "kernel/kswapd.hpp"
#include "kernel/lru.hpp"
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
        if (charge_vmas) charge(unit, address);
        if (waited) {
            m.h->question = {};
            if (step_result result = fault(unit, address, write); result != STEP_DONE) return result;
        }
        while (unit.access(address, write, content) == MMU_FAULT) {
            if (step_result result = fault(unit, address, write); result != STEP_DONE) return result;
        }
        return STEP_DONE;
    }

    bool answered() const { return m.h->question.state == ORDER_ANSWERED; }

    // Runs steps of the current operation until it ends, the window ends or a step fails. Addresses are made
    // some steps ahead, so that what their walks will read can be fetched while others run.
    template <typename Address, typename Step>
    step_result steps(mmu &unit, u64 count, Address address_of, Step step) {
        u64 addresses[mmu::AHEAD], at = m.h->at.step;
        u32 &charged = m.h->charged;
        if (m.h->at.charged) charged = vma_of_id(m, m.h->at.charged);
        const u64 start = at, stop = budget.accesses < count - at ? at + budget.accesses : count;
        step_result result = STEP_DONE;
        if (choices_over()) unit.stop();
        if (answered()) {
            result = unit.out_of_time() ? STEP_PAUSED : step(at, address_of(at), std::true_type());
            at += result == STEP_DONE;
        }
        while (at < stop && result == STEP_DONE) {
            const u64 first = at, end = std::min(stop, at + mmu::AHEAD);
            for (u64 i = first; i < end; ++i) addresses[i - first] = address_of(i);
            unit.prefetch(addresses, end - first);
            for (; at < end; ++at) {
                result =
                    unit.out_of_time() ? STEP_PAUSED : step(at, addresses[at - first], std::false_type());
                if (result != STEP_DONE) break; // a step that failed is not done
            }
        }
        m.h->at.step = at;
        budget.accesses -= at - start;
        unit.commit();
        if (result == STEP_DONE && at < count) result = STEP_PAUSED;
        // What follows is spent as if there had been no pause.
        m.h->at.charged = result != STEP_DONE && charged != NIL ? m.vmas[charged].id : 0;
        charged = NIL;
        return result;
    }

    step_result touch(const op_record &op, u32 mm) {
        mmu unit(m, mm, 1, budget.until);
        const u64 start = m.regions[op.region].start + op.offset;
        const auto address_of = [&](u64 i) { return start + i * op.a; };
        return steps(unit, steps_of(op), address_of, [&](u64, u64 address, auto waited) {
            return access(unit, address, op.b != TOUCH_READ, static_cast<u8>(op.c), waited);
        });
    }

    step_result accesses(const op_record &op, u32 mm) {
        mmu unit(m, mm, op.weight, budget.until);
        const u64 key = mix64(p.seed ^ mix64(m.h->at.op + 1)), start = m.regions[op.region].start + op.offset;
        const u64 write_share = op.d & 0xffffffffU;
        const auto content = static_cast<u8>(op.d >> 32);
        const bin_record *bins = op.a == PATTERN_BINS ? p.bins + p.tables[2 * op.aux] : nullptr;
        const u64 nr_bins = bins ? p.tables[2 * op.aux + 1] : 0, ps = op.c;
        const auto address_of = [&](u64 i) {
            return start + pattern_offset(op, key, i, draw(key, i), bins, nr_bins);
        };
        return steps(unit, steps_of(op), address_of, [&](u64 i, u64 address, auto waited) {
            const bool write = write_share && (draw(~key, i) & 0xffff) < write_share;
            if (!waited) unit.compute(ps);
            return access(unit, address, write, content, waited);
        });
    }

    step_result replay(const op_record &op, u32 mm) {
        mmu unit(m, mm, op.weight, budget.until);
        const access_record *const records = p.accesses + op.offset;
        const region *const regions = m.regions;
        const u64 ps = op.c;
        const auto content = static_cast<u8>(op.d);
        const auto address_of = [&](u64 i) {
            return regions[records[i].region].start + (u64{records[i].page} << PAGE_SHIFT);
        };
        return steps(unit, steps_of(op), address_of, [&](u64 i, u64 address, auto waited) {
            const access_record &r = records[i];
            if (!waited) unit.compute(r.instructions * ps);
            const step_result result = access(unit, address, r.written, content, waited);
            if (result == STEP_DONE && r.count > 1) unit.again(r.count - 1);
            return result;
        });
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
            result = touch(op, mm);
            break;
        case OP_access:
            result = accesses(op, mm);
            break;
        case OP_replay:
            result = replay(op, mm);
            break;
        case OP_compute:
            m.spend(TIME_compute, op.a);
            break;
        case OP_iovec: // a range for the process_madvise that follows
            break;
        default: {
            const int error = system_call(m, p, op, mm, until);
            if (error == -ENEEDORDER) return STEP_NEED_ORDER;
            if (error == -EPAUSED) return STEP_CUT;
            m.h->at.error = error;
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

u64 steps_of(const op_record &op) {
    switch (op.op) {
    case OP_touch:
        return op.length ? (op.length - 1) / op.a + 1 : 0;
    case OP_access:
        return op.b;
    case OP_replay:
        return op.length;
    case OP_khugepaged:
        return op.a;
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
    interpreter i{m, program, budget, until, m.h->vm[VM_fault_with_choice], m.h->config.charge_vmas != 0};
    cursor &at = m.h->at;
    if (m.h->question.state == ORDER_ASKED) return RUN_NEED_ORDER;
    at.oom = 0;
    for (u64 done = 0; at.op < program.nr_ops; ++done) {
        if (overflow_of(m)) return RUN_OVERFLOW;
        if (m.h->clock >= khugepaged_due(m)) khugepaged_do_scan(m);
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
        if (result == STEP_OOM) {
            m.count(VM_oom_kill);
            at.oom = 1;
            return RUN_OOM;
        }
        if (result == STEP_FAULTED && !budget.go_on) return RUN_ERROR;
        ++at.op;
        at.step = at.charged = 0;
        if (budget.new_vma && at.op < program.nr_ops && i.made_new_vma(op, first_id)) return RUN_WINDOW;
        if (i.choices_over() && at.op < program.nr_ops) return RUN_WINDOW;
    }
    return overflow_of(m) ? RUN_OVERFLOW : RUN_DONE;
}

} // namespace thp
