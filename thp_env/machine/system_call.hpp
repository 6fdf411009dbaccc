// The operations of a trace program that are calls of the kernel, or the program's own.
#pragma once
#include "run.hpp"

namespace thp {

// Who makes a call, and where it stands.
struct caller {
    machine &m;
    const program_view &program;
    const u32 mm;
    const u64 until;    // of the run: a call that can pause does so then, or when the host wants to stop
    const u64 answered; // address of the fault that had waited for an order; 0: none had

    u64 start(u32 region, u64 offset) const {
        return region < m.h->arrays[ARRAY_regions].used ? m.regions[region].start + offset : 0;
    }
    u64 key() const; // of what the call draws at random
};

// Each operation's function, by the type of its fields; what makes accesses has none (access_stream.cpp).
// Returns 0 or a negative errno.
#define X(name, how, fields) int call(const caller &by, const op_##name &op);
THP_OPS(X)
#undef X

// Calls an operation's function: 0 or a negative errno. One that returns -ENEEDORDER or -EPAUSED has done a
// part of its work and begins anew: what is done stays done.
int perform(machine &m, const program_view &program, const op_record &op, u32 mm, u64 until);

} // namespace thp
