// mm/madvise.c
#pragma once
#include "../state.hpp"

namespace thp {

int do_madvise(machine &m, u32 mm, u64 start, u64 length, u64 advice);

// MADV_FREE, MADV_COLD or MADV_PAGEOUT on a part of a VMA.
int madvise_pages(machine &m, u32 vma, u64 start, u64 end, u64 advice);
// MADV_WILLNEED: reads swapped pages into the swap cache.
int willneed(machine &m, u32 vma, u64 start, u64 end);

// Faults one page in if it is not, and touches it (GUP, FOLL_TOUCH); 0, -EFAULT or -ENOMEM.
int populate(machine &m, u32 mm, u64 address, bool write);
// MADV_POPULATE_READ and MADV_POPULATE_WRITE; -EPAUSED where `call` says how far they have come.
int madvise_populate(machine &m, u32 mm, u64 start, u64 end, bool write, call_progress *call = nullptr);
// Whether a call that has come to a page leaves the rest for later.
inline bool call_pauses(const machine &m, u64 at, call_progress *call) {
    if (!call || !m.host.stop) return false;
    call->reached = at;
    return true;
}
// Where what maps an address ends: what is populated with it.
u64 populated_to(machine &m, u32 mm, u64 address);

} // namespace thp
