// mm/madvise.c
#pragma once
#include "../state.hpp"

namespace thp {

int do_madvise(machine &m, u32 mm, u64 start, u64 length, u64 advice);

// Faults one page in if it is not (GUP); 0, -EFAULT or -ENOMEM.
int populate(machine &m, u32 mm, u64 address, bool write);

} // namespace thp
