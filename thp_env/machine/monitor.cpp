#include "monitor.hpp"
#include "kernel/mmap.hpp"
#include "kernel/page_alloc.hpp"
#include "kernel/vmstat.hpp"
#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

namespace thp {

namespace {

u64 faults_of(const vm_area_struct &v) {
    u64 faults = 0;
    for (const u64 n : v.faults) faults += n;
    return faults;
}

void note_question(machine &m, vm_area_struct &v, u64 idle) {
    v.asked = {++m.h->questions, faults_of(v), v.zapped, m.h->clock, 0, idle};
}

u64 mapped(const vma_smaps &s) {
    u64 pages = s.zero;
    for (const u64 n : s.by_order) pages += n;
    return pages;
}

void add(vma_smaps &sum, const vma_smaps &s) {
    for (u32 order = 0; order <= PMD_ORDER; ++order) {
        sum.faults[order] += s.faults[order];
        sum.by_order[order] += s.by_order[order];
    }
    sum.vm_end += s.vm_end - s.vm_start; // a length: the sum starts at 0
    sum.zapped += s.zapped;
    sum.zap_calls += s.zap_calls;
    sum.swapped += s.swapped;
    sum.zero += s.zero;
    sum.young += s.young;
    sum.dirty += s.dirty;
    sum.pmd_mapped += s.pmd_mapped;
    sum.partial += s.partial;
    sum.scanned += s.scanned;
    sum.asked = std::max(sum.asked, s.asked);
    sum.reasons |= s.reasons;
    sum.asked_faults += s.asked_faults;
    sum.asked_zapped += s.asked_zapped;
    sum.asked_clock = std::max(sum.asked_clock, s.asked_clock);
    sum.asked_walks += s.asked_walks;
    sum.born = sum.born ? std::min(sum.born, s.born) : s.born;
}

} // namespace

bool may_be_asked(const vm_area_struct &v) {
    return !(v.vm_flags & VM_FILE) && v.vm_flags & VM_WRITE &&
           v.vm_end - v.vm_start >= ASKED_PAGES * PAGE_SIZE &&
           (!(v.vm_flags & VM_NOHUGEPAGE) || v.asked.number != 0);
}

u32 nr_asked_vmas(const machine &m) {
    u32 n = 0;
    for (u32 i = 0; i < m.h->nr_vmas; ++i) n += may_be_asked(m.vmas[m.vma_order[i]]);
    return n;
}

u32 reasons_for(const machine &m, const vm_area_struct &v, u32 mask) {
    constexpr u64 IDLE_PS = 1'000'000'000'000, WALKS = 64, MUCH = HPAGE_PMD_NR;
    if (v.asked.number == 0) return REASON_NEW;
    const u64 zapped = v.zapped - std::min(v.zapped, v.asked.zapped);
    const u64 pages = (v.vm_end - v.vm_start) >> PAGE_SHIFT;
    u32 reasons = faults_of(v) > v.asked.faults ? REASON_FAULTS : 0;
    if (zapped >= std::max(ASKED_PAGES, std::min(MUCH, pages / 8))) reasons |= REASON_ZAPPED;
    if (v.asked.walks >= WALKS) reasons |= REASON_WALKS;
    reasons &= mask | REASON_FAULTS;
    if (mask & REASON_IDLE && !reasons &&
        m.h->clock - v.asked.clock >= IDLE_PS << std::min<u64>(v.asked.idle, 20)) {
        reasons = REASON_IDLE;
    }
    return reasons;
}

u32 next_vma(const machine &m, u32 mask) {
    u32 next = NIL;
    for (u32 i = 0; i < m.h->nr_vmas; ++i) {
        const u32 v = m.vma_order[i];
        const vm_area_struct &vma = m.vmas[v];
        if (!may_be_asked(vma)) continue;
        if (vma.asked.number == 0) return v;
        if (!reasons_for(m, vma, mask)) continue;
        if (next == NIL || vma.asked.number < m.vmas[next].asked.number) next = v;
    }
    return next;
}

vma_smaps ask(machine &m, u32 vma, u32 interval, u32 mask) {
    vm_area_struct &v = m.vmas[vma];
    const u32 reasons = reasons_for(m, v, mask);
    vma_smaps s = smaps(m, vma, true, interval);
    s.reasons = reasons;
    note_question(m, v, reasons == REASON_IDLE ? v.asked.idle + 1 : 0);
    return s;
}

u32 ask_slots(machine &m, u32 *slots, u32 n, vma_smaps *rows, u32 interval, u32 mask) {
    std::fill(rows, rows + n + 1, vma_smaps{});
    std::vector<u32> slot_of(m.h->arrays[ARRAY_vmas].used, n);
    for (u32 i = n; i-- > 0;) {
        if (const u32 v = slots[i] ? vma_of_id(m, slots[i]) : NIL; v != NIL) slot_of[v] = i;
    }
    // Where every slot is taken, the others wait for none.
    u32 busy_slots = 0;
    for (u32 i = 0; i < n; ++i) {
        const u32 v = slots[i] ? vma_of_id(m, slots[i]) : NIL;
        busy_slots += v != NIL && slot_of[v] == i && may_be_asked(m.vmas[v]);
    }
    std::vector<vma_smaps> waiting;
    u32 others = 0;
    for (u32 i = 0; i < m.h->nr_vmas; ++i) {
        const u32 v = m.vma_order[i];
        if (!may_be_asked(m.vmas[v])) continue;
        const vma_smaps s = ask(m, v, interval, mask);
        if (slot_of[v] < n) {
            rows[slot_of[v]] = s;
        } else if (busy_slots == n) {
            add(rows[n], s);
            ++others;
        } else {
            waiting.push_back(s);
        }
    }
    // Those with most mapped pages, of equals the lower address, get the free slots.
    std::vector<u32> free_slots, order(waiting.size());
    for (u32 i = 0; i < n; ++i) {
        if (rows[i].id == 0) free_slots.push_back(i);
    }
    std::iota(order.begin(), order.end(), 0U);
    const size_t count = std::min(free_slots.size(), order.size());
    std::partial_sort(order.begin(), order.begin() + static_cast<i64>(count), order.end(), [&](u32 a, u32 b) {
        const u64 pages_a = mapped(waiting[a]), pages_b = mapped(waiting[b]);
        return pages_a != pages_b ? pages_a > pages_b : a < b;
    });
    for (const u32 i : free_slots) slots[i] = 0;
    for (size_t k = 0; k < count; ++k) {
        rows[free_slots[k]] = waiting[order[k]];
        slots[free_slots[k]] = waiting[order[k]].id;
    }
    for (size_t k = count; k < order.size(); ++k) add(rows[n], waiting[order[k]]);
    return others + static_cast<u32>(order.size() - count);
}

void ask_order(machine &m, vma_smaps *rows, u32 n) {
    const order_question &q = m.h->question;
    const u32 vma = vma_lookup(m, q.mm, q.address);
    if (vma == NIL) return;
    vm_area_struct &v = m.vmas[vma];
    rows[0] = vma_statistics(v);
    for (u32 i = 0; i < n; ++i) {
        const u64 block = align_down(q.address, PMD_SIZE) + (u64{i} << PMD_SHIFT) - (u64{n / 2} << PMD_SHIFT);
        const u64 start = std::max(block, v.vm_start), end = std::min(block + PMD_SIZE, v.vm_end);
        if (start < end) rows[1 + i] = smaps_range(m, vma, start, end);
    }
    note_question(m, v, 0);
}

u32 vma_of_id(machine &m, u32 id) {
    if (!m.vma_ids.made()) {
        m.vma_ids.make(m.h->nr_vmas);
        for (u32 i = 0; i < m.h->nr_vmas; ++i) m.vma_ids.put(m.vmas[m.vma_order[i]].id, m.vma_order[i]);
    }
    const u32 v = m.vma_ids.find(id);
    return v != NIL && m.vmas[v].id == id ? v : NIL;
}

void read_snapshot(const machine &m, u64 *out) {
    const auto put = [&out](const u64 *from, u32 n) {
        std::memcpy(out, from, n * sizeof(u64));
        out += n;
    };
    put(m.h->vm, NR_VM_EVENTS);
    put(&m.h->mthp[0][0], (PMD_ORDER + 1) * NR_MTHP_STATS);
    put(m.h->times, NR_TIMES);
    u64 gauges[NR_GAUGES] = {};
    gauges[GAUGE_clock] = m.h->clock;
    gauges[GAUGE_free_pages] = nr_free_pages(m);
    for (u32 order = 0; order <= MAX_PAGE_ORDER; ++order) {
        const u64 pages = u64{nr_free_blocks(m, order)} << order;
        gauges[GAUGE_listed] += pages;
        if (order >= 4) gauges[GAUGE_listed_64K] += pages;
        if (order >= PMD_ORDER) gauges[GAUGE_listed_2M] += pages;
    }
    gauges[GAUGE_asked_vmas] = nr_asked_vmas(m);
    for (u32 i = 0; i < m.h->arrays[ARRAY_mms].used; ++i) {
        if (!m.mms[i].in_use) continue;
        ++gauges[GAUGE_processes];
        gauges[GAUGE_swapped] += m.mms[i].swapents;
    }
    gauges[GAUGE_memory_current] = m.memcgs[0].usage;
    gauges[GAUGE_memory_max] = std::min(m.memcgs[0].max, u64{1} << 62);
    gauges[GAUGE_op] = m.h->at.op;
    gauges[GAUGE_step] = m.h->at.step;
    gauges[GAUGE_error] = static_cast<u64>(-m.h->at.error);
    if (const order_question &q = m.h->question; q.state == ORDER_ASKED) {
        const mm_struct &task = m.mms[q.mm];
        gauges[GAUGE_order_address] = q.address;
        gauges[GAUGE_order_type] = q.type;
        gauges[GAUGE_order_orders] = q.orders;
        gauges[GAUGE_task_rss] = task.rss;
        gauges[GAUGE_task_minflt] = task.minflt;
        gauges[GAUGE_task_majflt] = task.majflt;
        gauges[GAUGE_task_vmas] = task.map_count;
    }
    put(gauges, NR_GAUGES);
}

} // namespace thp
