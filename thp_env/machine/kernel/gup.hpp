// mm/gup.c: pinning pages for I/O.
#pragma once
#include "../state.hpp"

namespace thp {

// Pins every page of a range for long (FOLL_PIN | FOLL_LONGTERM | FOLL_WRITE), faulting them in; 0 or an
// errno.
int pin_range(machine &m, u32 mm, u64 start, u64 end, u32 process);
// Lets go of everything that a process has pinned.
void unpin(machine &m, u32 process);

} // namespace thp
