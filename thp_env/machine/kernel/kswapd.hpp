// kswapd (mm/vmscan.c) and kcompactd (mm/compaction.c): the daemons of a zone that runs low.
#pragma once
#include "../state.hpp"

namespace thp {

// An allocation of this order found less than the low watermark, or no block.
void wakeup_kswapd(machine &m, u32 order);
// Pages that reclaim could free at best, were none of them in use.
u64 zone_reclaimable_pages(const machine &m);
// Lets woken daemons work. They take the time of the one CPU that is simulated.
void run_woken_daemons(machine &m);
inline void run_daemons(machine &m) {
    if (m.h->zone.kswapd_wakeup | m.h->zone.kcompactd_order) run_woken_daemons(m);
}

} // namespace thp
