// Addresses of the access patterns: pure functions of (seed, operation, step), integers only.
#pragma once
#include "ops.hpp"
#include "types.hpp"
#include <bit>

namespace thp {

// SplitMix64 (Steele, Lea, Flood 2014) as a counter-based generator.
constexpr u64 mix64(u64 z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}
constexpr u64 draw(u64 key, u64 step) { return mix64(key + step * 0x9e3779b97f4a7c15ULL); }

// The high half of x * n: uniform below n for n far below 2^64.
constexpr u64 below(u64 x, u64 n) { return static_cast<u64>((static_cast<unsigned __int128>(x) * n) >> 64); }

// x % n; the usual n is a power of two, and needs no division.
constexpr u64 remainder(u64 x, u64 n) { return n & (n - 1) ? x % n : x & (n - 1); }

// A bijection of [0, n): two rounds of multiply and xor-shift on the next power of two, walked until it lands
// inside.
constexpr u64 permute(u64 x, u64 n, u64 key) {
    const u32 bits = n > 1 ? static_cast<u32>(std::bit_width(n - 1)) : 1;
    const u64 mask = (1ULL << bits) - 1;
    const u32 shift = bits / 2 + (bits == 1);
    do {
        x = (x * (key | 1) + (key >> 32)) & mask;
        x ^= x >> shift;
        x = (x * 0xd1342543de82ef95ULL + (key >> 17)) & mask;
        x ^= x >> shift;
    } while (x >= n);
    return x;
}

// The byte offset of access `step` in a range of `length` bytes.
inline u64 pattern_offset(const op_record &op, u64 key, u64 step, u64 random, const bin_record *bins,
                          u64 nr_bins) {
    const u64 lines = op.length / 64;
    switch (op.a) {
    case PATTERN_STRIDE:
        return remainder(step * op.aux, op.length);
    case PATTERN_UNIFORM:
        return below(random, lines) * 64;
    case PATTERN_CHASE: {
        const u64 pages = (op.length + PAGE_SIZE - 1) / PAGE_SIZE;
        const u64 page = permute(step % pages, pages, key);
        return (page * PAGE_SIZE + (random & 63) * 64) % op.length;
    }
    default: {
        const bin_record *bin = bins + below(random, nr_bins);
        const u64 second = mix64(random);
        if ((second & 0xffffffffU) >= bin->threshold) bin = bins + bin->alias;
        const u64 pages = (op.length + PAGE_SIZE - 1) / PAGE_SIZE;
        u64 page = bin->first + ((second >> 32) * bin->count >> 32);
        page = bin->scatter ? permute(page % pages, pages, op.offset ^ 0x5bf03635f0935ad1ULL) : page % pages;
        return (page * PAGE_SIZE + (mix64(second) & 63) * 64) % op.length;
    }
    }
}

} // namespace thp
