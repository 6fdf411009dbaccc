#include "khugepaged.hpp"
#include "collapse.hpp"
#include "huge_memory.hpp"
#include "huge_memory_bpf.hpp"
#include "mmap.hpp"
#include "page_table.hpp"
#include "psi.hpp"
#include <algorithm>
#include <cerrno>

namespace thp {

void khugepaged_enter_vma(machine &m, u32 vma, u32 vm_flags) {
    mm_struct &mm = m.mms[m.vmas[vma].vm_mm];
    if (mm.khugepaged) return;
    vm_area_struct v = m.vmas[vma];
    v.vm_flags = vm_flags;
    mm.khugepaged = allowable(m, v, false);
}

namespace {

// Calls visit(vma, address, blocks) for each block that khugepaged may look at, with how many there are from
// it to the end of the VMA. It returns how many it has seen to, 0 to end. The daemon knows every process:
// mmap() enters them, too.
template <typename Visit> bool each_block(machine &m, Visit visit) {
    for (u32 mm = 0; mm < m.h->arrays[ARRAY_mms].used; ++mm) {
        if (!m.mms[mm].in_use || !(m.mms[mm].khugepaged || m.h->policy.khugepaged_pages)) continue;
        for (u32 v = find_vma(m, mm, 0); v != NIL; v = vma_next(m, v)) {
            if (!allowable(m, m.vmas[v], false)) continue;
            const u64 end = align_down(m.vmas[v].vm_end, PMD_SIZE);
            for (u64 at = align_up(m.vmas[v].vm_start, PMD_SIZE), seen = 0; at < end; at += seen * PMD_SIZE) {
                m.host.work();
                seen = std::min(visit(v, at, (end - at) >> PMD_SHIFT), (end - at) >> PMD_SHIFT);
                if (seen == 0) return false;
            }
        }
    }
    return true;
}

// How long others run when khugepaged does not sleep: it has nice 19 (mm/khugepaged.c, set_user_nice), so
// that on one CPU they get 1024 parts to its 15 (kernel/sched/core.c, sched_prio_to_weight); a tick at least.
u64 turn_of_others(u64 ran) {
    constexpr u64 TICK = 1'000'000'000; // 1 ms
    return std::max(TICK, saturating_mul(ran / 15, 1024));
}

} // namespace

int khugepaged_scan(machine &m, bool *scanned) {
    const bool all = each_block(m, [&](u32 v, u64 at, u64) {
        return thp_khugepaged_asks(m, m.vmas[v], at) ? 0 : blocks_at(m, m.vmas[v].vm_mm, at);
    });
    if (!all) return -ENEEDORDER; // asks about all before it scans the first
    const u32 sizes = feature(m, FEATURE_collapse_mthp) ? THP_ORDERS_ALL_ANON : 1U << PMD_ORDER;
    *scanned = false;
    const daemon_runs daemon(m);
    each_block(m, [&](u32 v, u64 at, u64) {
        const u32 mm = m.vmas[v].vm_mm;
        if (!(thp_get_orders(m, m.vmas[v], at, TVA_KHUGEPAGED) & sizes)) return u64{1};
        const u64 *pmd = pmd_offset(m, mm, at);
        *scanned = *scanned || (pmd && pmd_is_table(*pmd));
        collapse(m, v, at, true);
        return blocks_at(m, mm, at);
    });
    return 0;
}

// khugepaged_scan_mm_slot: on from where the last pass stopped, at most once around.
void khugepaged_do_scan(machine &m) {
    const daemon_runs daemon(m);
    policy_signals &h = m.h->policy;
    const u32 from_mm = h.khugepaged_mm;
    const u64 from = h.khugepaged_address, begin = m.h->clock;
    const u32 sizes = feature(m, FEATURE_collapse_mthp) ? THP_ORDERS_ALL_ANON : 1U << PMD_ORDER;
    u64 budget = h.khugepaged_pages, sleep = h.khugepaged_sleep;
    for (bool wrapped : {false, true}) {
        const bool all = each_block(m, [&](u32 v, u64 at, u64 blocks) {
            const u32 mm = m.vmas[v].vm_mm;
            const bool before = mm < from_mm || (mm == from_mm && at < from);
            if (before && mm == from_mm) blocks = std::min(blocks, (from - at) >> PMD_SHIFT);
            if (before != wrapped) return blocks;
            if (budget == 0 || sleep != h.khugepaged_sleep) {
                h.khugepaged_mm = mm;
                h.khugepaged_address = at;
                return u64{0};
            }
            const u64 *pmd = pmd_offset(m, mm, at);
            if (!pmd || !pmd_is_table(*pmd)) {
                const u64 empty = std::min({blocks_at(m, mm, at), blocks, budget});
                budget -= empty;
                return empty;
            }
            budget -= std::min<u64>(budget, HPAGE_PMD_NR);
            if ((thp_get_orders(m, m.vmas[v], at, TVA_KHUGEPAGED) & sizes) &&
                collapse(m, v, at, true) == ALLOC_FAIL)
                sleep = h.khugepaged_alloc_sleep;
            return u64{1};
        });
        if (!all) break;
        if (wrapped) h.khugepaged_mm = from_mm, h.khugepaged_address = from; // all the way around
    }
    h.khugepaged_wakes = saturating_add(m.h->clock, sleep ? sleep : turn_of_others(m.h->clock - begin));
}

} // namespace thp
