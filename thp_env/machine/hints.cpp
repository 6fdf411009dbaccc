#include "hints.hpp"
#include "kernel/khugepaged.hpp"
#include "kernel/process_madvise.hpp"
#include <cerrno>
#include <vector>

namespace thp {

namespace {

address_range range_of(const machine &m, const op_record &op) {
    return {m.regions[op.region].start + op.offset, op.length};
}

// The ranges are the operations before it.
int process_madvise_op(machine &m, const program_view &program, const op_record &op, u32 mm) {
    std::vector<address_range> ranges;
    for (u64 i = op.b; i > 0; --i) ranges.push_back(range_of(m, program.ops[m.h->at.op - i]));
    const i64 done = process_madvise(m, mm, m.processes[op.aux], ranges.data(), ranges.size(), op.a,
                                     static_cast<u32>(op.c));
    return done < 0 ? static_cast<int>(done) : 0;
}

} // namespace

int hint_call(machine &m, const program_view &program, const op_record &op, u32 mm) {
    switch (op.op) {
    case OP_process_madvise:
        return process_madvise_op(m, program, op, mm);
    case OP_capdrop:
        drop_cap_sys_nice(m, mm);
        return 0;
    case OP_collapse: {
        const address_range range = range_of(m, op);
        return collapse_range(m, mm, range.start, range.start + range.length, static_cast<u32>(op.a));
    }
    default:
        return -ENOSYS;
    }
}

} // namespace thp
