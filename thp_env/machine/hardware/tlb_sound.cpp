// Whether the replacement state of a TLB is one that replacement could have left.
#include "tlb_array.hpp"
#include <vector>

namespace thp {

namespace {

// Way numbers of 4 bits, each once.
bool each_once(u64 order, u32 ways) {
    u32 way_mask = 0;
    for (u32 i = 0; i < ways; ++i) way_mask |= 1U << (order >> 4 * i & 15);
    return way_mask == (1U << ways) - 1 && (ways == MAX_ORDERED_WAYS || order >> 4 * ways == 0);
}

} // namespace

bool tlb_array::ring_sound(u64 *set) const {
    if (*set >= ways) return false;
    u32 way = static_cast<u32>(*set), n = 0;
    do {
        const u32 next = next_of(set)[way];
        if (next >= ways || prev_of(set)[next] != way || ++n > ways) return false;
        way = next;
    } while (way != *set);
    return n == ways;
}

bool tlb_array::chains_sound(u64 *set) const {
    std::vector<u8> seen(ways);
    u32 valid = 0, chained = 0;
    for (u32 way = 0; way < ways; ++way) valid += tag_of(set, way) != 0;
    const u16 *heads = prev_of(set) + 3 * u64{ways};
    for (u32 b = 0; b < buckets(ways); ++b) {
        for (u32 link = heads[b]; link; link = chain_of(set)[link - 1], ++chained) {
            if (link > ways || seen[link - 1] || !tag_of(set, link - 1)) return false;
            if (&bucket(set, tag_key(tag_of(set, link - 1))) != heads + b) return false;
            seen[link - 1] = 1;
        }
    }
    return valid == chained;
}

bool tlb_array::bytes_sound(u64 *set) const {
    for (u32 way = 0; way < 8 * nr_bytes; ++way) {
        const u64 tag = way < ways ? tag_of(set, way) : 0;
        if (bytes_of(set)[way] != (tag ? tag_key(tag).byte() : 0)) return false;
    }
    return true;
}

bool tlb_array::sound() const {
    for (u32 s = 0; s < sets && ways; ++s) {
        u64 *set = words + u64{s} * stride;
        if (!plru && !(wide() ? ring_sound(set) : each_once(*set, ways))) return false;
        if (!(nr_bytes ? bytes_sound(set) : chains_sound(set))) return false;
    }
    return true;
}

} // namespace thp
