// mm/madvise.c: process_madvise(2): advice about the memory of another process.
#pragma once
#include "../state.hpp"

namespace thp {

struct address_range {
    u64 start, length;
};

// Advises ranges of the target, one after another; returns the bytes of those that succeeded before the first
// that did not or, when that is the first one, its negative errno (R48). Callers and targets are mms; NIL: a
// process that is gone. orders: with MADV_HUGEPAGE, the set of sizes that the ranges may use (E1).
i64 process_madvise(machine &m, u32 caller, u32 target, const address_range *ranges, u64 n, u64 advice,
                    u32 orders);
// The calling process gives up CAP_SYS_NICE, and its children will not have it (capset).
void drop_cap_sys_nice(machine &m, u32 mm);

} // namespace thp
