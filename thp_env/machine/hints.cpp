// The operations of a trace program by which one process advises another, or asks for a collapse.
#include "kernel/khugepaged.hpp"
#include "kernel/process_madvise.hpp"
#include "system_call.hpp"
#include <vector>

namespace thp {

// A range for the process_madvise that follows.
int call(const caller & /*by*/, const op_iovec & /*op*/) { return 0; }

// The ranges are the operations before it.
int call(const caller &by, const op_process_madvise &op) {
    machine &m = by.m;
    std::vector<address_range> ranges;
    for (u64 i = op.ranges; i > 0; --i) {
        const op_iovec range(by.program.ops[m.h->at.op - i]);
        ranges.push_back({m.regions[range.region].start + range.offset, range.length});
    }
    const i64 done =
        process_madvise(m, by.mm, m.processes[op.target], ranges.data(), ranges.size(), op.advice, op.orders);
    return done < 0 ? static_cast<int>(done) : 0;
}

int call(const caller &by, const op_capdrop & /*op*/) {
    drop_cap_sys_nice(by.m, by.mm);
    return 0;
}

int call(const caller &by, const op_collapse &op) {
    const u64 start = by.start(op.region, op.offset);
    return collapse_range(by.m, by.mm, start, start + op.length, op.order);
}

} // namespace thp
