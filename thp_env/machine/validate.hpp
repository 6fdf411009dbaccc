// A scan of the whole machine for broken invariants, for tests and for states read from outside.
#pragma once
#include "state.hpp"
#include <string>

namespace thp {

// Names the first broken invariant; empty when the state is consistent.
std::string validate(machine &m);

} // namespace thp
