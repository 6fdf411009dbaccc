// mm/memcontrol.c: the memory limit of the one control group that everything runs in. Folios are charged;
// page tables and the kernel's own memory are not.
#pragma once
#include "../state.hpp"

namespace thp {

// Charges a new folio to the group, reclaiming where its limit is reached and gfp permits. On failure the
// folio is the caller's to free.
bool mem_cgroup_charge(machine &m, u32 head, u32 gfp);
void mem_cgroup_uncharge(machine &m, u32 head);
// memory.max in pages; reclaims what is too much. 0, or -EBUSY when that is not possible (R39).
int mem_cgroup_resize_max(machine &m, u64 pages);
// The statistics of the LRU lists that reclaim and working sets decide by lag behind the lists: every CPU
// counts on its own, and all are added up every 2 s (machine_config.flush_time).
void mem_cgroup_flush_stats(machine &m);
void mem_cgroup_flush_stats_ratelimited(machine &m);
// memory.force_empty: reclaims all that can be reclaimed.
void mem_cgroup_force_empty(machine &m);

} // namespace thp
