// The records of memory control groups, with their lists of folios and their pressure (kernel/memcontrol.cpp,
// kernel/psi.cpp).
#pragma once
#include "types.hpp"

namespace thp {

// include/linux/mmzone.h: enum lru_list. Of files there are only lazily freed pages.
// The lists of 64K folios are used with reclaim_whole only.
enum lru_index : u32 {
    LRU_INACTIVE_ANON,
    LRU_ACTIVE_ANON,
    LRU_INACTIVE_FILE,
    LRU_ACTIVE_FILE,
    LRU_UNEVICTABLE,
    LRU_INACTIVE_CONT,
    LRU_ACTIVE_CONT,
    NR_LRU_LISTS
};

struct lru_list {
    u32 head, tail;
    u64 nr_pages;
};

// lruvec_page_state(): pages on each list, and pages that refaults made active.
struct lruvec_state {
    u64 nr_pages[NR_LRU_LISTS], workingset_activate;
};

// What reclaim remembers from one time to the next, of a group and of the whole system: activations by
// refaults as seen at its end, and what it cost to reclaim either kind (lru_note_cost).
struct lruvec_cost {
    u64 refaults, anon_cost, file_cost;
};

constexpr u32 MAX_MEMCGS = 64;
constexpr u32 MEMCG_SHIFT = 24; // of page::flags: the group that has paid for a folio

// include/linux/memcontrol.h: what memory.events counts.
enum memcg_event : u32 { MEMCG_MAX, MEMCG_OOM, MEMCG_OOM_KILL, NR_MEMCG_EVENTS };

// include/linux/psi_types.h. Times in ps; averages in parts of 2^11 of a percent.
enum psi_state : u32 { PSI_SOME, PSI_FULL, NR_PSI_STATES };
constexpr u32 NR_PSI_AVGS = 3; // over 10, 60 and 300 s
struct psi_group {
    u64 total[NR_PSI_STATES], avg_total[NR_PSI_STATES];
    u64 avg_last_update, avg_next_update;
    u64 avg[NR_PSI_STATES][NR_PSI_AVGS];
};

struct mem_cgroup {
    u32 made, swappiness;
    // Pages: charged and charged in advance, at most, in advance; the most that ever were; slots of swap.
    u64 usage, max, stock, watermark, swap;
    u64 events[NR_MEMCG_EVENTS];
    lru_list lru[NR_LRU_LISTS];
    lruvec_state stats; // what statistics of the lists say: as of the last flush
    lruvec_cost cost;
    u64 nonresident_age, workingset_activate; // evictions and activations so far (workingset.cpp)
    u32 deferred_head, deferred_tail, deferred_len, spare;
    u64 shrinker_deferred;
    psi_group psi;
};

} // namespace thp
