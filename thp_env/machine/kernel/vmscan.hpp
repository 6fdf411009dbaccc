// mm/vmscan.c: reclaim.
#pragma once
#include "contpte.hpp"
#include <vector>

namespace thp {

// Reclaims at least nr pages, or what there is; returns how many (direct reclaim).
u64 try_to_free_pages(machine &m, u64 nr, bool kswapd = false);
// The same inside a control group, for its limit.
u64 try_to_free_mem_cgroup_pages(machine &m, u32 memcg, u64 nr);
// MADV_PAGEOUT: reclaims the folios, in order, without asking whether they are in use (reclaim_pages).
void reclaim_pages(machine &m, const std::vector<u32> &folios);
// Reclaims 64K folios from the lists that reclaim_whole keeps for them; about nr of them.
void shrink_cont_pte_folios(machine &m, u32 nr);

} // namespace thp
