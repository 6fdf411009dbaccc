// What a policy in the kernel goes by: which VMA to decide about next, and what can be read about each.
#pragma once
#include "kernel/task_mmu.hpp"

namespace thp {

constexpr u64 ASKED_PAGES = 16; // smaller VMAs get the default

// Whether a policy decides about the VMA: anonymous, writable, large enough, not advised away by the program.
// Advice that came after a question may be the policy's own.
bool may_be_asked(const vm_area_struct &vma);
u32 nr_asked_vmas(const machine &m);

// Why a VMA is asked about. The last three have to be wanted; a kernel knows each without reading page
// tables.
enum reason : u32 {
    REASON_NEW = 1U << 0,    // it never was
    REASON_FAULTS = 1U << 1, // it faulted since it was asked about
    REASON_ZAPPED = 1U << 2, // much of it was unmapped since: 2M, or an eighth of it where that is less
    REASON_IDLE = 1U << 3,   // no other for a second; asked again after twice as long each time
    REASON_WALKS = 1U << 4,  // the PMU's samples of page walks name it: 64 since it was asked about
};
u32 reasons_for(const machine &m, const vm_area_struct &v, u32 mask);

// The VMA to ask about: the first that never was, else of those with a reason to be the one that waits
// longest; NIL when there is none.
u32 next_vma(const machine &m, u32 mask);

// Reads a VMA's page tables as smaps() does, clears the accessed bits, and notes that it was asked about.
vma_smaps ask(machine &m, u32 vma, u32 interval, u32 mask);

// Reads all VMAs that may be asked about. slots[n] are ids: a VMA keeps its slot while it is mapped; free
// slots go to the VMAs with most mapped pages; rows[i] is the VMA of slot i (id 0: none), rows[n] the sum of
// all others. Returns how many those are.
u32 ask_slots(machine &m, u32 *slots, u32 n, vma_smaps *rows, u32 interval, u32 mask);

// The VMA that the machine waits for an order of: what is known without reading page tables, in rows[0].
// rows[1] to rows[n]: the 2M blocks of the VMA around the one in question, which stands in the middle (id 0:
// outside the VMA).
void ask_order(machine &m, vma_smaps *rows, u32 n);

// The VMA with an id, or NIL.
u32 vma_of_id(machine &m, u32 id);

// Gauges of the system, besides counters, in the order in which read_snapshot() writes them.
#define THP_GAUGES(X)                                                                                        \
    X(clock)                                                                                                 \
    X(free_pages)                                                                                            \
    X(listed_64K) /* free pages in blocks of 64K or more on the free lists, as in /proc/buddyinfo */         \
    X(listed_2M)  /* ... of 2M or more */                                                                    \
    X(listed)     /* ... in any */                                                                           \
    X(asked_vmas) /* VMAs that a policy decides about */                                                     \
    X(processes)                                                                                             \
    X(swapped)        /* pages of processes that are in swap */                                              \
    X(memory_current) /* pages charged to the control group */                                               \
    X(memory_max)     /* ... and how many may be; 2^62 where there is no limit */                            \
    X(op)             /* position in the program */                                                          \
    X(step)                                                                                                  \
    X(error)         /* errno of the last system call */                                                     \
    X(order_address) /* order_question: where; these are 0 while no fault waits */                           \
    X(order_type)    /* ... for whom */                                                                      \
    X(order_orders)  /* ... what may be answered */                                                          \
    X(task_rss)      /* of the process that waits: resident pages */                                         \
    X(task_minflt)                                                                                           \
    X(task_majflt)                                                                                           \
    X(task_vmas)

enum gauge : u32 {
#define X(name) GAUGE_##name,
    THP_GAUGES(X)
#undef X
        NR_GAUGES
};

// Counters and gauges in one row: vm events, mTHP statistics by order, times, gauges.
constexpr u32 SNAPSHOT_WIDTH = NR_VM_EVENTS + (PMD_ORDER + 1) * NR_MTHP_STATS + NR_TIMES + NR_GAUGES;
void read_snapshot(const machine &m, u64 *out);

} // namespace thp
