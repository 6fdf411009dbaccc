// mm/migrate.c: moving a folio to other frames.
#pragma once
#include "../state.hpp"

namespace thp {

// Whether compaction may take the frame's folio, or page of a page cache, off to be moved: nobody holds a
// reference besides its mappings and the swap cache.
bool folio_isolatable(const machine &m, u32 head);
// Moves an isolatable folio of less than 2M to isolated frames, with its mappings, and frees its own.
void migrate_folio(machine &m, u32 from, u32 to);

} // namespace thp
