// mm/vmscan.c and mm/rmap.c: lazily freed folios, which reclaim discards unless they were written to again.
#pragma once
#include "../state.hpp"

namespace thp {

// What shrink_folio_list does with a folio. SPLIT: its pages are folios of their own now.
enum outcome : u32 { KEEP, ACTIVATE, RECLAIM, RECLAIMED, SPLIT };

// R32; held: by others than page tables.
outcome shrink_lazyfree(machine &m, u32 head, bool extra_refs);

} // namespace thp
