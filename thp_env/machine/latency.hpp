// How long page faults took.
#pragma once
#include "types.hpp"
#include <algorithm>
#include <bit>

namespace thp {

// Page faults by how long they took: four buckets an octave of nanoseconds.
constexpr u32 NR_LATENCIES = 160;
constexpr u32 latency_bucket(u64 ps) {
    const u64 quarters = 4 * ps / 1000 + 4; // 4: the first bucket begins at 0 ns
    const u32 octave = static_cast<u32>(std::bit_width(quarters)) - 3;
    return std::min(4 * octave + static_cast<u32>(quarters >> octave & 3), NR_LATENCIES - 1);
}

} // namespace thp
