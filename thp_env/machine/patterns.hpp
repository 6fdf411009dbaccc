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
// Of what an operation draws.
constexpr u64 key_of(u64 seed, u64 operation) { return mix64(seed ^ mix64(operation + 1)); }
constexpr u64 draw(u64 key, u64 step) { return mix64(key + step * 0x9e3779b97f4a7c15ULL); }

// The high half of x * n: uniform below n for n far below 2^64.
constexpr u64 below(u64 x, u64 n) { return static_cast<u64>((static_cast<unsigned __int128>(x) * n) >> 64); }

// x % n; the usual x is below n, or n a power of two, and needs no division.
constexpr u64 remainder(u64 x, u64 n) { return x < n ? x : n & (n - 1) ? x % n : x & (n - 1); }

// A bijection of [0, n): two rounds of multiply and xor-shift on the next power of two, walked until it lands
// inside.
struct permutation {
    u64 n, mask, factor, first_add, second_add;
    u32 shift;

    constexpr permutation(u64 size, u64 key)
        : n(size), factor(key | 1), first_add(key >> 32), second_add(key >> 17) {
        const u32 bits = n > 1 ? static_cast<u32>(std::bit_width(n - 1)) : 1;
        mask = (1ULL << bits) - 1;
        shift = bits / 2 + (bits == 1);
    }
    constexpr u64 walk(u64 x) const {
        x = (x * factor + first_add) & mask;
        x ^= x >> shift;
        x = (x * 0xd1342543de82ef95ULL + second_add) & mask;
        return x ^ x >> shift;
    }
};

constexpr u64 permute(u64 x, u64 n, u64 key) {
    const permutation p(n, key);
    do x = p.walk(x);
    while (x >= n);
    return x;
}

// The pattern of one operation: byte offsets in a range of `length` bytes.
struct pattern {
    const op_access op;
    u64 key;
    const bin_record *bins; // PATTERN_BINS
    u64 nr_bins;

    static constexpr u64 MOST = 64; // of one call
    // Of the accesses [first, first + nr).
    void write(u64 first, u64 nr, u64 *out) const;

  private:
    u64 pages() const { return (op.length + PAGE_SIZE - 1) / PAGE_SIZE; }
    void stride(u64 first, u64 nr, u64 *out) const;
    void chase(u64 first, u64 nr, u64 *page) const;
    void draw_bins(u64 *random, u64 nr, u64 *page) const;
    void lines(const u64 *random, u64 nr, u64 *page) const;
};

} // namespace thp
