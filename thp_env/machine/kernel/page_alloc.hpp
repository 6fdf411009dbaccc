// mm/page_alloc.c: allocation with watermarks, folios, and what frames are used for over time.
#pragma once
#include "buddy.hpp"

namespace thp {

// What an allocation may do when there is no free block (include/linux/gfp_types.h).
enum gfp : u32 {
    GFP_KSWAPD_RECLAIM = 1U << 0, // wake kswapd, and kcompactd after it
    GFP_DIRECT_RECLAIM = 1U << 1, // reclaim and compact in its own time
    GFP_NORETRY = 1U << 2,        // ... but give up soon
};
constexpr u32 GFP_RECLAIM = GFP_KSWAPD_RECLAIM | GFP_DIRECT_RECLAIM; // GFP_KERNEL, GFP_HIGHUSER_MOVABLE
constexpr u32 PAGE_ALLOC_COSTLY_ORDER = 3;

// Returns the first frame of a free block of 2^order frames, or NIL.
u32 alloc_pages(machine &m, u32 order, u32 migratetype, u32 gfp_flags = GFP_RECLAIM);
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

// The head of a frame's folio.
inline u32 page_head(const machine &m, u32 pfn) { return pfn - m.pages[pfn].tail; }
inline u32 folio_nr_pages(const machine &m, u32 head) { return 1U << m.pages[head].order; }

// Allocates a folio of zeroed, unmapped, untouched pages with one reference; NIL on failure.
u32 folio_alloc(machine &m, u32 order, u32 gfp_flags = GFP_RECLAIM);
void folio_get(machine &m, u32 head, i32 refs);
// Drops references and frees the folio with the last one.
void folio_put(machine &m, u32 head, i32 refs);

} // namespace thp
