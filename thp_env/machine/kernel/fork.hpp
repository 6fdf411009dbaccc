// kernel/fork.c: dup_mmap; mm/memory.c: copy_page_range.
#pragma once
#include "../state.hpp"

namespace thp {

// Makes a copy of an address space (R23); NIL when memory or a table is exhausted.
u32 dup_mm(machine &m, u32 mm);

} // namespace thp
