// mm/compaction.c: moves movable folios from the start of memory to free frames at its end.
#pragma once
#include "../state.hpp"

namespace thp {

enum compact_result : u32 {
    COMPACT_SKIPPED,  // too little free memory, or fragmentation is not the reason
    COMPACT_DEFERRED, // it failed too recently
    COMPACT_CONTINUE,
    COMPACT_COMPLETE, // the scanners have met
    COMPACT_PARTIAL_SKIPPED,
    COMPACT_CONTENDED, // no free frame to move to
    COMPACT_SUCCESS,
};
enum migrate_mode : u32 { COMPACT_ASYNC, COMPACT_SYNC_LIGHT };

constexpr u32 COMPACT_ALL = NIL; // no order in particular: /proc/sys/vm/compact_memory

// Compacts in the time of an allocation of this order that failed (mm/page_alloc.c).
compact_result try_to_compact_pages(machine &m, u32 order, migrate_mode mode);
// What __alloc_pages_direct_compact counts afterwards, unless it was skipped.
void count_direct_compact(machine &m, u32 order, bool allocated);
// kcompactd: compacts for an order that somebody failed to get without waiting.
void kcompactd_do_work(machine &m, u32 order);
// Forgets which page blocks were looked at, if an allocation has gone through them all since.
void reset_isolation_suitable(machine &m);
// Compacts all memory.
void compact_memory(machine &m);

} // namespace thp
