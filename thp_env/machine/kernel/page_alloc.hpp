// mm/page_alloc.c: the buddy allocator, and what frames are used for over time.
#pragma once
#include "../state.hpp"

namespace thp {

// Returns the first frame of a free block of 2^order frames, or NIL.
u32 alloc_pages(machine &m, u32 order);
void free_pages(machine &m, u32 pfn, u32 order);
u64 nr_free_pages(const machine &m);

// Changes one of nr_resident, nr_untouched, nr_unmapped after integrating all three up to now.
void mod_memory(machine &m, vm_event which, i64 pages);
// Integrates memory over time up to now.
void memory_tick(machine &m);

// The head of a frame's folio.
inline u32 page_head(const machine &m, u32 pfn) { return pfn - m.pages[pfn].tail; }
inline u32 folio_nr_pages(const machine &m, u32 head) { return 1U << m.pages[head].order; }

// Allocates a folio of zeroed, unmapped, untouched pages with one reference; NIL on failure.
u32 folio_alloc(machine &m, u32 order);
void folio_get(machine &m, u32 head, i32 refs);
// Drops references and frees the folio with the last one.
void folio_put(machine &m, u32 head, i32 refs);

} // namespace thp
