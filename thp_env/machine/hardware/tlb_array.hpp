// One set-associative array of translations with LRU or tree-PLRU replacement, as words of plain data.
//
// A set is: one word of replacement state, the tags, the data, and for sets of more than 16 ways an index.
// Up to 16 ways, tags are compared one after another and the word holds the ways in LRU order, 4 bits each.
// Wider sets find a tag by a hash and keep the LRU order in a list, so that both cost the same for 32 ways
// and for 4096.
#pragma once
#include "../config.hpp"
#include <bit>

namespace thp {

constexpr u32 MAX_ORDERED_WAYS = 16, MAX_PLRU_WAYS = 64, MAX_TLB_WAYS = 4096;

// The position of a tag among `ways`, or NIL. No branch depends on the tags; a tag occurs at most once.
template <u32 N> inline u32 find_among(const u64 *tags, u64 tag) {
    u64 found = 0;
    for (u32 way = 0; way < N; ++way) found |= tags[way] == tag ? way + 1 : 0;
    return static_cast<u32>(found) - 1;
}

inline u32 find_among(const u64 *tags, u32 ways, u64 tag) {
    switch (ways) { // the usual ones, unrolled
    case 4:
        return find_among<4>(tags, tag);
    case 8:
        return find_among<8>(tags, tag);
    case 12:
        return find_among<12>(tags, tag);
    case 16:
        return find_among<16>(tags, tag);
    default:
        u64 found = 0;
        for (u32 way = 0; way < ways; ++way) found |= tags[way] == tag ? way + 1 : 0;
        return static_cast<u32>(found) - 1;
    }
}

// LRU order of up to 16 ways in one word: way numbers of 4 bits, the most recent one lowest.
struct lru_word {
    static constexpr u64 ONES = 0x1111111111111111ULL;

    static u64 first(u32 ways) { return ways ? 0xfedcba9876543210ULL & ~0ULL >> (64 - 4 * ways) : 0; }
    static u32 position(u64 order, u32 way) { // in bits
        const u64 x = order ^ way * ONES;
        return static_cast<u32>(std::countr_zero((x - ONES) & ~x & ONES << 3)) & ~3U;
    }
    static u64 below(u32 position) { return (1ULL << position) - 1; }
    static u64 to_front(u64 order, u32 way, u32 position) {
        const u64 newer = below(position);
        return (order & ~(newer << 4 | 15)) | (order & newer) << 4 | way;
    }
    static u64 to_back(u64 order, u32 way, u32 ways) {
        const u64 newer = below(position(order, way)), all = below(4 * (ways - 1));
        return (order & ~(all << 4 | 15)) | (order & newer) | (order >> 4 & all & ~newer) |
               u64{way} << 4 * (ways - 1);
    }
    // The least recently used way, which becomes the most recently used.
    static u32 renew_last(u64 *order, u32 ways) {
        const u32 last = 4 * (ways - 1);
        const u64 way = *order >> last;
        *order = (*order & below(last)) << 4 | way;
        return static_cast<u32>(way);
    }
};

// Tree-PLRU: one bit per inner node of a binary tree over the ways, the root bit 1; it points to the half
// that was used longer ago.
struct plru_tree {
    static u64 touch(u64 bits, u32 way, u32 ways) {
        for (u32 node = ways | way; node > 1; node >>= 1) {
            const u64 parent = 1ULL << (node >> 1);
            bits = node & 1 ? bits & ~parent : bits | parent;
        }
        return bits;
    }
    static u32 victim(u64 bits, u32 ways) {
        u32 node = 1;
        while (node < ways) node = 2 * node + (bits >> node & 1);
        return node - ways;
    }
};

struct tlb_array {
    u64 *words = nullptr;
    u32 sets = 0, ways = 0, stride = 0;
    bool plru = false, hashed = false;
    bool ordered = false; // neither, and at most 16 ways: the usual case, and the fast one
    u32 bucket_shift = 0; // of wide sets

    tlb_array() = default;
    tlb_array(u64 *memory, const tlb_geometry &g, bool tree)
        : words(memory), sets(g.sets), ways(g.ways), stride(words_of_set(g.ways)), plru(tree),
          hashed(!std::has_single_bit(g.sets)), ordered(!tree && !hashed && g.ways <= MAX_ORDERED_WAYS),
          bucket_shift(65 - static_cast<u32>(std::bit_width(buckets(g.ways)))) {}

    static u32 buckets(u32 ways) { return 4 * std::bit_ceil(ways); } // so that most chains have one entry

    static u32 words_of_set(u32 ways) {
        // Of wide sets: previous and next of the list, next of the chain, and heads of the chains.
        const u32 links = ways <= MAX_ORDERED_WAYS ? 0 : 3 * ways + buckets(ways);
        return 1 + 2 * ways + (links + 3) / 4; // links of 16 bits
    }
    static u32 words_of(const tlb_geometry &g) { return g.sets * words_of_set(g.ways); }

    bool wide() const { return ways > MAX_ORDERED_WAYS; }
    u64 *set_of(u64 number) const { return words + (hashed ? number % sets : number & (sets - 1)) * stride; }

    void init() const {
        for (u32 s = 0; s < sets; ++s) {
            u64 *set = words + u64{s} * stride;
            if (plru) continue;
            if (!wide()) {
                *set = lru_word::first(ways);
                continue;
            }
            for (u32 way = 0; way < ways; ++way) { // in a ring
                next_of(set)[way] = static_cast<u16>((way + 1) % ways);
                prev_of(set)[way] = static_cast<u16>((way + ways - 1) % ways);
            }
        }
    }

    // The data of a tag, now the most recently used; nullptr when it is not there.
    u64 *find(u64 number, u64 tag) const {
        if (!ordered) return find_other(number, tag);
        u64 *set = words + (number & (sets - 1)) * stride;
        const u32 way = find_among(set + 1, ways, tag);
        if (way == NIL) return nullptr;
        *set = lru_word::to_front(*set, way, lru_word::position(*set, way));
        return set + 1 + ways + way;
    }

    // Puts an entry in the place of one that is not valid, or else of the least recently used.
    void insert(u64 number, u64 tag, u64 value) const {
        if (!ordered) return insert_other(number, tag, value);
        u64 *set = words + (number & (sets - 1)) * stride;
        const u32 way = lru_word::renew_last(set, ways);
        set[1 + way] = tag;
        set[1 + ways + way] = value;
    }

    // Whether a tag was there; now it is, and the most recently used.
    bool find_or_insert(u64 number, u64 tag) const {
        if (find(number, tag)) return true;
        insert(number, tag, 0);
        return false;
    }

    void drop(u64 number, u64 tag) const {
        u64 *set = set_of(number);
        const u32 way = position(set, tag);
        if (way != NIL) drop_way(set, way);
    }

    template <typename Gone> void drop_if(Gone gone) const {
        for (u32 s = 0; s < sets; ++s) {
            u64 *set = words + u64{s} * stride;
            for (u32 way = 0; way < ways; ++way) {
                if (set[1 + way] && gone(set[1 + way])) drop_way(set, way);
            }
        }
    }

    template <typename Visit> void for_each(Visit visit) const {
        for (u32 s = 0; s < sets; ++s) {
            u64 *set = words + u64{s} * stride;
            for (u32 way = 0; way < ways; ++way) {
                if (set[1 + way]) visit(set[1 + way], set[1 + ways + way]);
            }
        }
    }

  private:
    [[gnu::noinline]] u64 *find_other(u64 number, u64 tag) const {
        u64 *set = set_of(number);
        const u32 way = position(set, tag);
        if (way == NIL) return nullptr;
        touch(set, way);
        return set + 1 + ways + way;
    }

    [[gnu::noinline]] void insert_other(u64 number, u64 tag, u64 value) const {
        u64 *set = set_of(number);
        const u32 way = renew_victim(set);
        if (wide()) {
            if (set[1 + way]) unchain(set, way);
            chain(set, way, tag);
        }
        set[1 + way] = tag;
        set[1 + ways + way] = value;
    }

    // Wide sets. All ways stand in a ring in LRU order; the set's word is the most recently used one. Chains
    // link ways + 1, 0 for none.
    u16 *prev_of(u64 *set) const { return reinterpret_cast<u16 *>(set + 1 + 2 * ways); }
    u16 *next_of(u64 *set) const { return prev_of(set) + ways; }
    u16 *chain_of(u64 *set) const { return prev_of(set) + 2 * ways; }
    u16 &bucket(u64 *set, u64 tag) const {
        return prev_of(set)[3 * ways + (tag * 0x9e3779b97f4a7c15ULL >> bucket_shift)];
    }

    u32 position(u64 *set, u64 tag) const {
        if (!wide()) return find_among(set + 1, ways, tag);
        u32 link = bucket(set, tag);
        while (link && set[link] != tag) link = chain_of(set)[link - 1];
        return link - 1;
    }

    void touch(u64 *set, u32 way) const {
        if (plru) {
            *set = plru_tree::touch(*set, way, ways);
        } else if (!wide()) {
            *set = lru_word::to_front(*set, way, lru_word::position(*set, way));
        } else if (*set != way) {
            put_between_ends(set, way);
            *set = way;
        }
    }

    // The way to be replaced, which becomes the most recently used.
    u32 renew_victim(u64 *set) const {
        if (plru) {
            u32 way = find_free(set);
            if (way == NIL) way = plru_tree::victim(*set, ways);
            *set = plru_tree::touch(*set, way, ways);
            return way;
        }
        if (!wide()) return lru_word::renew_last(set, ways);
        return static_cast<u32>(*set = prev_of(set)[*set]); // the last in the ring is the first now
    }

    u32 find_free(const u64 *set) const {
        for (u32 way = 0; way < ways; ++way) {
            if (set[1 + way] == 0) return way;
        }
        return NIL;
    }

    void drop_way(u64 *set, u32 way) const {
        if (wide()) unchain(set, way);
        set[1 + way] = set[1 + ways + way] = 0;
        if (plru) return;
        if (!wide()) {
            *set = lru_word::to_back(*set, way, ways);
        } else if (*set == way) {
            *set = next_of(set)[way];
        } else {
            put_between_ends(set, way);
        }
    }

    // Moves a way that is not the first between the last and the first.
    void put_between_ends(u64 *set, u32 way) const {
        u16 *prev = prev_of(set), *next = next_of(set);
        const auto moved = static_cast<u16>(way), first = static_cast<u16>(*set);
        if (prev[first] == moved) return;
        next[prev[way]] = next[way];
        prev[next[way]] = prev[way];
        prev[way] = prev[first];
        next[way] = first;
        next[prev[first]] = moved;
        prev[first] = moved;
    }

    void chain(u64 *set, u32 way, u64 tag) const {
        u16 &first = bucket(set, tag);
        chain_of(set)[way] = first;
        first = static_cast<u16>(way + 1);
    }

    void unchain(u64 *set, u32 way) const {
        u16 *link = &bucket(set, set[1 + way]);
        while (*link != way + 1) link = &chain_of(set)[*link - 1];
        *link = chain_of(set)[way];
        chain_of(set)[way] = 0;
    }
};

} // namespace thp
