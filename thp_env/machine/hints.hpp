// The operations of a trace program by which one process advises another, or asks for a collapse.
#pragma once
#include "run.hpp"

namespace thp {

// Returns 0 or a negative errno; -ENOSYS for an operation that is none of these.
int hint_call(machine &m, const program_view &program, const op_record &op, u32 mm);

} // namespace thp
