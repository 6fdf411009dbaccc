// What kernel work between accesses that stand for several takes from the TLB, and how it comes back.
#pragma once
#include "walker.hpp"

namespace thp {

// Where accesses stand for several: notes what a flush of a page, of the walk caches or of an address space
// will take. copy: of machine::translations.
void note_lost_page(machine &m, u32 mm, u64 address);
void note_lost_walks(machine &m, u32 mm, u32 copy);
void note_lost_translations(machine &m, u32 mm, u32 copy);

void forget_lost(machine &m);
// Before the accesses of a process go on: fills what it has lost, each entry once. It takes time.
void refill_tlb(machine &m, u32 mm);

} // namespace thp
