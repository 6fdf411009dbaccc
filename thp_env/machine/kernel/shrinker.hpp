// mm/shrinker.c: how hard a reclaim of a given priority works the deferred split queue (R19, R22).
#pragma once
#include "../state.hpp"

namespace thp {

void shrink_slab(machine &m, u32 memcg, i32 priority);

} // namespace thp
