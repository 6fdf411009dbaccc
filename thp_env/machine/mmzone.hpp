// Free memory by order and migrate type: include/linux/mmzone.h.
#pragma once
#include "types.hpp"

namespace thp {

enum migratetype : u32 { MIGRATE_UNMOVABLE, MIGRATE_MOVABLE, MIGRATE_RECLAIMABLE, MIGRATE_PCPTYPES };

struct free_area {
    u32 head[MIGRATE_PCPTYPES], tail[MIGRATE_PCPTYPES], nr_free[MIGRATE_PCPTYPES];
};

enum zone_watermarks : u32 { WMARK_MIN, WMARK_LOW, WMARK_HIGH, NR_WMARK };

// All memory is one zone (struct zone).
struct zone_struct {
    free_area area[MAX_PAGE_ORDER + 1];
    u32 orders[MIGRATE_PCPTYPES]; // bit o: there are free blocks of order o
    u32 nr_free;                  // pages, with those that have no record yet
    u32 watermark[NR_WMARK];
    u32 migrate_pfn, free_pfn; // where the last compaction stopped
    u32 compact_considered, compact_defer_shift, compact_order_failed;
    u32 kswapd_wakeup, kswapd_failures; // woken; in vain, so many times in a row
    u32 kcompactd_order;                // woken, for this order
    u32 compact_blockskip_flush, reserved;
};

} // namespace thp
