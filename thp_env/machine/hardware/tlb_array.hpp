// One set-associative array of translations with LRU or tree-PLRU replacement, as words of plain data.
//
// A set is: one word of replacement state, one byte of each tag, the entries. The bytes, eight compared
// at once, tell almost all tags apart that differ. Up to 16 ways the first word holds the ways in LRU order,
// 4 bits each; wider sets keep that order in a ring. Beyond 64 ways a tag is found by a hash instead, so that
// 96 ways cost the same as 4096.
#pragma once
#include "../config.hpp"
#include <bit>

namespace thp {

constexpr u32 MAX_ORDERED_WAYS = 16, MAX_PLRU_WAYS = 64, MAX_TLB_WAYS = 4096;
constexpr u32 MAX_SCANNED_WAYS = 64; // beyond: by a hash

// A byte of a tag that stands for it, never 0; 0 is that of a way which is not valid. Eight to a word.
struct tag_bytes {
    static constexpr u64 LOW7 = 0x7f7f7f7f7f7f7f7fULL, ONES = 0x0101010101010101ULL;
    static_assert(std::endian::native == std::endian::little);

    static u64 hash(u64 tag) { return tag * 0x9e3779b97f4a7c15ULL; }
    static u8 of(u64 tag) {
        const u64 byte = hash(tag) >> 56;
        return static_cast<u8>(byte + (byte == 0));
    }
    // The high bit of each byte of `word` that equals the byte which `eight` holds eight times.
    static u64 equal(u64 word, u64 eight) {
        const u64 x = word ^ eight;
        return ~(((x & LOW7) + LOW7) | x | LOW7);
    }
};

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
    u32 nr_bytes = 0; // words of tag bytes in a set; 0: found by a hash
    bool plru = false, hashed = false;
    bool ordered = false; // neither, and at most 16 ways: the usual case, and the fast one
    u32 bucket_shift = 0;

    tlb_array() = default;
    tlb_array(u64 *memory, const tlb_geometry &g, bool tree)
        : words(memory), sets(g.sets), ways(g.ways), stride(words_of_set(g.ways)),
          nr_bytes(words_of_bytes(g.ways)), plru(tree), hashed(!std::has_single_bit(g.sets)),
          ordered(!tree && !hashed && g.ways <= MAX_ORDERED_WAYS),
          bucket_shift(65 - static_cast<u32>(std::bit_width(buckets(g.ways)))) {}

    static u32 buckets(u32 ways) { return 4 * std::bit_ceil(ways); } // so that most chains have one entry
    static u32 words_of_bytes(u32 ways) { return ways <= MAX_SCANNED_WAYS ? (ways + 7) / 8 : 0; }

    static u32 words_of_set(u32 ways) {
        u32 links = ways <= MAX_ORDERED_WAYS ? 0 : 2 * ways;        // previous and next of the ring
        if (ways > MAX_SCANNED_WAYS) links += ways + buckets(ways); // next of the chain, heads of the chains
        return 1 + words_of_bytes(ways) + 2 * ways + (links + 3) / 4; // links of 16 bits
    }
    static u32 words_of(const tlb_geometry &g) { return g.sets * words_of_set(g.ways); }

    bool wide() const { return ways > MAX_ORDERED_WAYS; }
    u64 *set_of(u64 number) const { return words + (hashed ? number % sets : number & (sets - 1)) * stride; }
    static u8 *bytes_of(u64 *set) { return reinterpret_cast<u8 *>(set + 1); }
    // An entry: its tag and its data.
    u64 *entry_of(u64 *set, u32 way) const { return set + 1 + nr_bytes + 2 * way; }
    u64 &tag_of(u64 *set, u32 way) const { return *entry_of(set, way); }

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
        const u32 way = scan(set, tag);
        if (way == NIL) return nullptr;
        *set = lru_word::to_front(*set, way, lru_word::position(*set, way));
        return entry_of(set, way) + 1;
    }

    // Puts an entry in the place of one that is not valid, or else of the least recently used.
    void insert(u64 number, u64 tag, u64 value) const {
        if (!ordered) return insert_other(number, tag, value);
        u64 *set = words + (number & (sets - 1)) * stride;
        put(set, lru_word::renew_last(set, ways), tag, value);
    }

    // Whether a tag was there; now it is, and the most recently used.
    bool find_or_insert(u64 number, u64 tag) const {
        u64 *set = set_of(number);
        const u32 way = position(set, tag);
        if (way == NIL) {
            replace(set, tag, 0);
        } else {
            touch(set, way);
        }
        return way != NIL;
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
                if (const u64 tag = tag_of(set, way); tag && gone(tag)) drop_way(set, way);
            }
        }
    }

    template <typename Visit> void for_each(Visit visit) const {
        for (u32 s = 0; s < sets; ++s) {
            u64 *set = words + u64{s} * stride;
            for (u32 way = 0; way < ways; ++way) {
                const u64 *entry = entry_of(set, way);
                if (entry[0]) visit(entry[0], entry[1]);
            }
        }
    }

    // Whether replacement could have left it so (tlb_sound.cpp).
    bool sound() const;

  private:
    bool ring_sound(u64 *set) const;
    bool chains_sound(u64 *set) const;
    bool bytes_sound(u64 *set) const;

    // The way of a tag, or NIL, where tags have bytes.
    u32 scan(u64 *set, u64 tag) const {
        const u64 eight = tag_bytes::of(tag) * tag_bytes::ONES;
        for (u32 word = 0; word < nr_bytes; ++word) {
            for (u64 same = tag_bytes::equal(set[1 + word], eight); same; same &= same - 1) {
                const u32 way = 8 * word + static_cast<u32>(std::countr_zero(same)) / 8;
                if (tag_of(set, way) == tag) return way;
            }
        }
        return NIL;
    }

    void put(u64 *set, u32 way, u64 tag, u64 value) const {
        bytes_of(set)[way] = tag_bytes::of(tag);
        entry_of(set, way)[0] = tag;
        entry_of(set, way)[1] = value;
    }

    [[gnu::noinline]] u64 *find_other(u64 number, u64 tag) const {
        u64 *set = set_of(number);
        const u32 way = position(set, tag);
        if (way == NIL) return nullptr;
        touch(set, way);
        return entry_of(set, way) + 1;
    }

    [[gnu::noinline]] void insert_other(u64 number, u64 tag, u64 value) const {
        replace(set_of(number), tag, value);
    }

    void replace(u64 *set, u64 tag, u64 value) const {
        const u32 way = renew_victim(set);
        if (nr_bytes) return put(set, way, tag, value);
        if (tag_of(set, way)) unchain(set, way);
        chain(set, way, tag);
        entry_of(set, way)[0] = tag;
        entry_of(set, way)[1] = value;
    }

    // Wide sets. All ways stand in a ring in LRU order; the set's word is the most recently used one. Chains
    // link ways + 1, 0 for none.
    u16 *prev_of(u64 *set) const { return reinterpret_cast<u16 *>(entry_of(set, ways)); }
    u16 *next_of(u64 *set) const { return prev_of(set) + ways; }
    u16 *chain_of(u64 *set) const { return prev_of(set) + 2 * ways; }
    u16 &bucket(u64 *set, u64 tag) const {
        return prev_of(set)[3 * ways + (tag_bytes::hash(tag) >> bucket_shift)];
    }

    u32 position(u64 *set, u64 tag) const {
        if (nr_bytes) return scan(set, tag);
        u32 link = bucket(set, tag);
        while (link && tag_of(set, link - 1) != tag) link = chain_of(set)[link - 1];
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

    u32 find_free(u64 *set) const {
        for (u32 way = 0; way < ways; ++way) {
            if (tag_of(set, way) == 0) return way;
        }
        return NIL;
    }

    void drop_way(u64 *set, u32 way) const {
        if (nr_bytes) {
            bytes_of(set)[way] = 0;
        } else {
            unchain(set, way);
        }
        entry_of(set, way)[0] = entry_of(set, way)[1] = 0;
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
        u16 *link = &bucket(set, tag_of(set, way));
        while (*link != way + 1) link = &chain_of(set)[*link - 1];
        *link = chain_of(set)[way];
        chain_of(set)[way] = 0;
    }
};

} // namespace thp
