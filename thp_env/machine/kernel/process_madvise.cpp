#include "process_madvise.hpp"
#include "madvise.hpp"
#include "mmap.hpp"
#include <cerrno>

namespace thp {

namespace {

// process_madvise_remote_valid: what does not destroy anything.
bool remote_valid(const machine &m, u64 advice) {
    switch (advice) {
    case MADV_COLD:
    case MADV_PAGEOUT:
    case MADV_WILLNEED:
    case MADV_COLLAPSE:
        return true;
    case MADV_HUGEPAGE:
    case MADV_NOHUGEPAGE:
        return feature(m, FEATURE_remote_hints);
    default:
        return false;
    }
}

int advise(machine &m, u32 mm, const address_range &range, u64 advice, u32 orders) {
    const int error = do_madvise(m, mm, range.start, range.length, advice);
    return error || orders == 0 ? error
                                : set_vma_orders(m, mm, range.start, range.start + range.length, orders);
}

} // namespace

i64 process_madvise(machine &m, u32 caller, u32 target, const address_range *ranges, u64 n, u64 advice,
                    u32 orders) {
    if (target == NIL) return -ESRCH;
    if (orders && (advice != MADV_HUGEPAGE || !feature(m, FEATURE_remote_hints))) return -EINVAL;
    if (target != caller && !remote_valid(m, advice)) return -EINVAL;
    if (target != caller && m.mms[caller].no_sys_nice) return -EPERM;
    i64 done = 0;
    for (u64 i = 0; i < n; ++i) { // vector_madvise
        const int error = advise(m, target, ranges[i], advice, orders);
        if (error == -ENEEDORDER) return error;
        if (error) return done ? done : error;
        done += static_cast<i64>(ranges[i].length);
    }
    return done;
}

void drop_cap_sys_nice(machine &m, u32 mm) { m.mms[mm].no_sys_nice = 1; }

} // namespace thp
