// The operations of a trace program that are calls of the kernel.
#pragma once
#include "run.hpp"

namespace thp {

// 0 or a negative errno. One that returns -ENEEDORDER or -EPAUSED has done a part of its work and begins
// anew: what is done stays done. It pauses, where it can, when the clock has reached `until` or the host
// wants to stop.
int system_call(machine &m, const program_view &p, const op_record &op, u32 mm, u64 until);

} // namespace thp
