// mm/memcontrol.c: memory control groups, each with a limit, lists and a queue of its own. All are children
// of the root, which has no limit. Folios are charged; page tables and the kernel's own memory are not.
#pragma once
#include "../state.hpp"

namespace thp {

inline u32 nr_memcgs(const machine &m) { return m.h->arrays[ARRAY_memcgs].used; }
inline bool several_memcgs(const machine &m) { return nr_memcgs(m) > 1; }
// The group that has paid for a folio, or would pay for a page of a VMA.
inline u32 folio_memcg(const machine &m, u32 head) { return m.pages[head].flags >> MEMCG_SHIFT; }
inline u32 vma_memcg(const machine &m, const vm_area_struct &v) { return m.mms[v.vm_mm].memcg; }
// The group that pays for what comes back from a slot: the one that it went out of
// (mem_cgroup_swapin_charge_folio).
inline u32 swap_memcg(const machine &m, u32 slot, u32 otherwise) {
    return m.swap[slot].memcg ? m.swap[slot].memcg - 1U : otherwise;
}

inline bool mem_cgroup_made(const machine &m, u32 memcg) {
    return memcg < nr_memcgs(m) && m.memcgs[memcg].made;
}
// mkdir: makes a group and those below its number; false when there can be no more.
bool mem_cgroup_create(machine &m, u32 memcg);
// cgroup.procs (R49): what a process is charged from now on counts for the group, which is made if there is
// none.
int mem_cgroup_attach(machine &m, u32 mm, u32 memcg);

// Charges a new folio to a group, reclaiming in it where its limit is reached and gfp permits. On failure the
// folio is the caller's to free.
bool mem_cgroup_charge(machine &m, u32 head, u32 memcg, u32 gfp);
void mem_cgroup_uncharge(machine &m, u32 head);
// memory.swap.current: a folio's slots count for its group, as long as they are taken.
void mem_cgroup_charge_swap(machine &m, u32 head, u32 slot);
void mem_cgroup_uncharge_swap(machine &m, u32 slot);
// memory.max in pages; reclaims what is too much. 0, or -EBUSY when that is not possible (R39).
int mem_cgroup_resize_max(machine &m, u32 memcg, u64 pages);
// What statistics of the LRU say of a group or, NIL, of all: reclaim and working sets decide by them. They
// lag behind the lists: every CPU counts on its own, and all are added up every 2 s
// (machine_config.flush_time).
u64 lruvec_page_state(const machine &m, u32 memcg, lru_index list);
u64 workingset_activations(const machine &m, u32 memcg);
void mem_cgroup_flush_stats(machine &m);
void mem_cgroup_flush_stats_ratelimited(machine &m);
// memory.force_empty: reclaims all that can be reclaimed.
void mem_cgroup_force_empty(machine &m, u32 memcg);

// R50: the process of the group that is the largest is killed. Returns its number in the
// program; NIL when there is none.
u32 mem_cgroup_out_of_memory(machine &m, u32 memcg);

} // namespace thp
