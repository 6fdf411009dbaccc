#include "shrinker.hpp"
#include "huge_memory.hpp"
#include <algorithm>

namespace thp {

namespace {

constexpr u64 SHRINK_BATCH = 128, SEEKS = 2;

} // namespace

// do_shrink_slab: a share of the queue that grows as the priority falls; what is too little for a batch adds
// up.
void shrink_slab(machine &m, u32 memcg, i32 priority) {
    mem_cgroup &group = m.memcgs[memcg];
    const u64 freeable = group.deferred_len;
    if (freeable == 0) return;
    const u64 waiting = group.shrinker_deferred, delta = (freeable >> priority) * 4 / SEEKS;
    u64 total = std::min((waiting >> priority) + delta, 2 * freeable), scanned = 0;
    while (total >= SHRINK_BATCH || total >= freeable) {
        const u64 nr = std::min(SHRINK_BATCH, total);
        const u64 split = deferred_split_scan(m, memcg, static_cast<u32>(nr));
        if (split == 0 && group.deferred_len == 0) break; // SHRINK_STOP
        total -= nr;
        scanned += nr;
    }
    const u64 remaining = waiting + delta;
    group.shrinker_deferred = std::min(remaining > scanned ? remaining - scanned : 0, 2 * freeable);
}

} // namespace thp
