// mm/page_alloc.c: allocation with watermarks, folios, and what frames are used for over time.
#pragma once
#include "buddy.hpp"

namespace thp {

// include/linux/gfp_types.h: what an allocation may do to get its memory.
enum gfp : u32 {
    GFP_NOWAIT = 0,
    GFP_DIRECT_RECLAIM = 1U << 0, // reclaim, and compact, before it fails
    GFP_KSWAPD_RECLAIM = 1U << 1, // wake those who do so in the background
    GFP_NORETRY = 1U << 2,        // ... once
    GFP_ATOMIC = 1U << 3, // cannot wait, and may use what others leave free: where Linux has put a page by
    GFP_KERNEL = GFP_DIRECT_RECLAIM | GFP_KSWAPD_RECLAIM,
};
constexpr u32 PAGE_ALLOC_COSTLY_ORDER = 3; // include/linux/mmzone.h: beyond it nobody waits for long

// Returns the first frame of a free block of 2^order frames, or NIL.
u32 alloc_pages(machine &m, u32 order, u32 migratetype, u32 gfp);
void free_pages(machine &m, u32 pfn, u32 order);
inline u32 nr_free_pages(const machine &m) { return m.h->zone.nr_free; }

// min, low and high, from min_free_kbytes, which follows from the size of memory and from whether 2M folios
// are on. To be called when that changes (mm/khugepaged.c: set_recommended_min_free_kbytes).
void setup_per_zone_wmarks(machine &m);
// Whether an allocation would leave more than `mark` pages free (order 0 of __zone_watermark_ok).
inline bool zone_watermark_ok(const machine &m, u32 order, u32 mark) {
    return m.h->zone.nr_free > mark + (1U << order) - 1;
}

// Changes one of nr_resident, nr_untouched, nr_unmapped after integrating all three up to now.
void mod_memory(machine &m, vm_event which, i64 pages);
// Integrates memory over time up to now.
void memory_tick(machine &m);

inline u32 folio_nr_pages(const machine &m, u32 head) { return 1U << m.pages[head].order; }

// Allocates a folio of zeroed, unmapped, untouched pages with one reference; NIL on failure.
u32 folio_alloc(machine &m, u32 order, u32 gfp);
// The same, charged to the control group; on failure *charge_failed says whether it was that.
u32 folio_alloc_charged(machine &m, u32 order, u32 gfp, u32 memcg, bool *charge_failed);
// One page, charged to the control group (folio_prealloc).
u32 folio_prealloc(machine &m, u32 memcg);
void folio_get(machine &m, u32 head, i32 refs);
// Drops references and frees the folio with the last one.
void folio_put(machine &m, u32 head, i32 refs);

} // namespace thp
