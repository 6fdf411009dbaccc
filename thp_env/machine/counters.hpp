// What the machine counts. Names are those of /proc/vmstat, of the mTHP sysfs statistics and of perf.
#pragma once
#include "types.hpp"

namespace thp {

// /sys/kernel/mm/transparent_hugepage/hugepages-*kB/stats, one value an order.
#define THP_MTHP_STATS(X)                                                                                    \
    X(anon_fault_alloc)                                                                                      \
    X(anon_fault_fallback)                                                                                   \
    X(anon_fault_fallback_charge)                                                                            \
    X(nr_anon)                                                                                               \
    X(nr_anon_partially_mapped)                                                                              \
    X(split)                                                                                                 \
    X(split_deferred)                                                                                        \
    X(split_failed)                                                                                          \
    X(swpin)                                                                                                 \
    X(swpin_fallback)                                                                                        \
    X(swpin_fallback_charge)                                                                                 \
    X(swpout)                                                                                                \
    X(swpout_fallback)                                                                                       \
    /* Of collapse_mthp. */                                                                                  \
    X(collapse_alloc)                                                                                        \
    X(collapse_alloc_failed)                                                                                 \
    X(collapse_exceed_none_pte)                                                                              \
    X(collapse_exceed_swap_pte)                                                                              \
    X(collapse_exceed_shared_pte)

// Values of the system. The first group is /proc/vmstat's.
#define THP_VM_EVENTS(X)                                                                                     \
    X(pgfault)                                                                                               \
    X(pgmajfault)                                                                                            \
    X(pgalloc)                                                                                               \
    X(pgfree)                                                                                                \
    X(thp_fault_alloc)                                                                                       \
    X(thp_fault_fallback)                                                                                    \
    X(thp_fault_fallback_charge)                                                                             \
    X(thp_split_page)                                                                                        \
    X(thp_split_page_failed)                                                                                 \
    X(thp_deferred_split_page)                                                                               \
    X(thp_underused_split_page)                                                                              \
    X(thp_split_pmd)                                                                                         \
    X(thp_collapse_alloc)                                                                                    \
    X(thp_collapse_alloc_failed)                                                                             \
    X(thp_scan_exceed_none_pte)                                                                              \
    X(thp_scan_exceed_swap_pte)                                                                              \
    X(thp_scan_exceed_share_pte)                                                                             \
    X(thp_zero_page_alloc)                                                                                   \
    X(thp_swpout)                                                                                            \
    X(thp_swpout_fallback)                                                                                   \
    X(pswpin)                                                                                                \
    X(pswpout)                                                                                               \
    X(swpin_zero)                                                                                            \
    X(swpout_zero)                                                                                           \
    X(pglazyfree)                                                                                            \
    X(pglazyfreed)                                                                                           \
    X(allocstall)                                                                                            \
    X(pgscan)                                                                                                \
    X(pgsteal)                                                                                               \
    X(pgactivate)                                                                                            \
    X(pgdeactivate)                                                                                          \
    X(workingset_refault_anon)                                                                               \
    X(workingset_activate_anon)                                                                              \
    X(oom_kill)                                                                                              \
    X(nr_tlb_local_flush_one)                                                                                \
    X(nr_tlb_local_flush_all)                                                                                \
    X(nr_tlb_remote_flush)                                                                                   \
    /* Faults that could have had a large folio, for windows. */                                             \
    X(fault_with_choice)                                                                                     \
    /* Of the TLB. Counts of weighted accesses are weighted. */                                              \
    X(accesses)                                                                                              \
    X(dtlb_load_store_simulated)                                                                             \
    X(dtlb_l1_miss)                                                                                          \
    X(dtlb_l2_miss)                                                                                          \
    X(dtlb_dirty_assist)                                                                                     \
    X(walk_ref_pgd)                                                                                          \
    X(walk_ref_pud)                                                                                          \
    X(walk_ref_pmd)                                                                                          \
    X(walk_ref_pte)                                                                                          \
    X(walk_cycles)                                                                                           \
    X(shadow_l1_miss)                                                                                        \
    X(shadow_l2_miss)                                                                                        \
    X(shadow_walk_cycles)                                                                                    \
    /* Memory, now: pages. */                                                                                \
    X(nr_resident)                                                                                           \
    X(nr_untouched)                                                                                          \
    X(nr_unmapped)                                                                                           \
    X(nr_file_pages)                                                                                         \
    X(nr_page_table)                                                                                         \
    /* Memory over time: page-microseconds. */                                                               \
    X(resident_page_us)                                                                                      \
    X(untouched_page_us)                                                                                     \
    X(unmapped_page_us)                                                                                      \
    X(peak_resident)                                                                                         \
    /* Of the TLB, too: CPUs interrupted by shootdowns; nested walks for a guest's page tables. */           \
    X(nr_tlb_remote_flush_received)                                                                          \
    X(walk_ref_nested)                                                                                       \
    /* arm64: blocks of 16 PTEs folded and unfolded, and TLB invalidations for it (X2-X4). */                \
    X(contpte_fold)                                                                                          \
    X(contpte_unfold)                                                                                        \
    X(contpte_tlbi)                                                                                          \
    /* Of the seed thread's kernel: large copies on write, double maps now, and its reserve of 64K folios.   \
     */                                                                                                      \
    X(thp_cow)                                                                                               \
    X(thp_cow_fallback)                                                                                      \
    X(cont_pte_double_map_count)                                                                             \
    X(chp_pool_count)                                                                                        \
    X(chp_alloc_pool)                                                                                        \
    X(chp_alloc_buddy)                                                                                       \
    X(chp_alloc_failed)                                                                                      \
    X(chp_refill)                                                                                            \
    /* Fragmentation, as /proc/vmstat. */                                                                    \
    X(compact_stall)                                                                                         \
    X(compact_fail)                                                                                          \
    X(compact_success)                                                                                       \
    X(compact_migrate_scanned)                                                                               \
    X(compact_free_scanned)                                                                                  \
    X(compact_daemon_wake)                                                                                   \
    X(pgmigrate_success)                                                                                     \
    X(pgmigrate_fail)                                                                                        \
    X(pageoutrun)                                                                                            \
    /* Page blocks that an allocation of another type took over, and pages taken without the block. */       \
    X(pageblock_claimed)                                                                                     \
    X(pageblock_stolen_from)                                                                                 \
    /* Pages that the rest of the system holds (pollute, fragment), now. */                                  \
    X(nr_held)                                                                                               \
    /* Pages that hold compressed ones (zram), now; part of nr_resident. */                                  \
    X(nr_zspages)

// Where simulated time goes (picoseconds). They add up to the clock.
#define THP_TIMES(X)                                                                                         \
    X(compute)                                                                                               \
    X(translation)                                                                                           \
    X(fault)                                                                                                 \
    X(zeroing)                                                                                               \
    X(copying)                                                                                               \
    X(splitting)                                                                                             \
    X(unmapping)                                                                                             \
    X(swapping)                                                                                              \
    X(syscall)                                                                                               \
    X(shootdown)                                                                                             \
    X(monitoring)                                                                                            \
    X(compaction)

enum mthp_stat : u32 {
#define X(name) MTHP_##name,
    THP_MTHP_STATS(X)
#undef X
        NR_MTHP_STATS
};

enum vm_event : u32 {
#define X(name) VM_##name,
    THP_VM_EVENTS(X)
#undef X
        NR_VM_EVENTS
};

enum time_kind : u32 {
#define X(name) TIME_##name,
    THP_TIMES(X)
#undef X
        NR_TIMES
};

} // namespace thp
