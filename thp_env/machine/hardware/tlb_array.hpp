// One set-associative array of translations with LRU or tree-PLRU replacement, as words of plain data.
//
// A set is: one word of replacement state, one byte of each tag, the entries. The bytes, sixteen compared
// at once, tell almost all tags apart that differ. Up to 16 ways the first word holds the ways in LRU order,
// 4 bits each; wider sets keep that order in a ring. Beyond 64 ways a tag is found by a hash instead, so that
// 96 ways cost the same as 4096.
#pragma once
#include "../config.hpp"
#include <algorithm>
#include <bit>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace thp {

constexpr u32 MAX_ORDERED_WAYS = 16, MAX_PLRU_WAYS = 64, MAX_TLB_WAYS = 4096;
constexpr u32 MAX_SCANNED_WAYS = 64; // beyond: by a hash

// Which of sixteen bytes in two words equal a given one: a bit each.
struct byte_search {
    static_assert(std::endian::native == std::endian::little);
#if defined(__SSE2__)
    __m128i sixteen;

    explicit byte_search(u8 byte) : sixteen(_mm_set1_epi8(static_cast<char>(byte))) {}
    u32 equal(const u64 *words) const {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(words));
        return static_cast<u32>(_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, sixteen)));
    }
#else
    static constexpr u64 LOW7 = 0x7f7f7f7f7f7f7f7fULL, ONES = 0x0101010101010101ULL;
    u64 eight;

    explicit byte_search(u8 byte) : eight(byte * ONES) {}
    u64 equal_in(u64 word) const { // the high bit of each byte
        const u64 x = word ^ eight;
        return ~(((x & LOW7) + LOW7) | x | LOW7);
    }
    static u32 pack(u64 high_bits) {
        return static_cast<u32>((high_bits >> 7) * 0x0102040810204080ULL >> 56);
    }
    u32 equal(const u64 *words) const { return pack(equal_in(words[0])) | pack(equal_in(words[1])) << 8; }
#endif
};

// A tag, its hash, and a byte that stands for it: never 0, which is that of a way that is not valid.
struct tag_key {
    u64 tag, hash;

    explicit tag_key(u64 t) : tag(t), hash(t * 0x9e3779b97f4a7c15ULL) {}
    u8 byte() const {
        const u64 high = hash >> 56;
        return static_cast<u8>(high + (high == 0));
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
    // What is known of its sets where code is compiled: nothing, or LRU sets of up to 16 ways, one LRU set of
    // more that has tag bytes, one that has chains.
    enum kind : u32 { ANY, ORDERED, RING, CHAINED };

    u64 *words = nullptr;
    u32 sets = 0, ways = 0, stride = 0;
    u32 nr_bytes = 0; // words of tag bytes in a set; 0: found by a hash
    u32 last_set = 0, first_entry = 0, bucket_shift = 0;
    bool plru = false, hashed = false;
    u64 way_bits = 0; // one for each way, where tags have bytes

    tlb_array() = default;
    tlb_array(u64 *memory, const tlb_geometry &g, bool tree)
        : words(memory), sets(g.sets), ways(g.ways), stride(words_of_set(g.ways)),
          nr_bytes(words_of_bytes(g.ways)), last_set(g.sets - 1), first_entry(1 + nr_bytes),
          bucket_shift(65 - static_cast<u32>(std::bit_width(buckets(g.ways)))), plru(tree),
          hashed(!std::has_single_bit(g.sets)), way_bits(g.ways ? ~0ULL >> (64 - std::min(g.ways, 64U)) : 0) {
    }

    static u32 buckets(u32 ways) { return 4 * std::bit_ceil(ways); } // so that most chains have one entry
    static u32 words_of_bytes(u32 ways) { return ways <= MAX_SCANNED_WAYS ? (ways + 7) / 8 : 0; }

    static u32 words_of_set(u32 ways) {
        u32 links = ways <= MAX_ORDERED_WAYS ? 0 : 2 * ways;        // previous and next of the ring
        if (ways > MAX_SCANNED_WAYS) links += ways + buckets(ways); // next of the chain, heads of the chains
        return 1 + words_of_bytes(ways) + 2 * ways + (links + 3) / 4; // links of 16 bits
    }
    static u32 words_of(const tlb_geometry &g) { return g.sets * words_of_set(g.ways); }

    kind kind_of() const {
        if (plru || hashed || (wide() && sets > 1)) return ANY;
        return !wide() ? ORDERED : has_bytes() ? RING : CHAINED;
    }
    template <kind K = ANY> bool is_tree() const { return K == ANY && plru; }
    template <kind K = ANY> bool wide() const { return K == ANY ? ways > MAX_ORDERED_WAYS : K != ORDERED; }
    template <kind K = ANY> bool has_bytes() const { return K == ANY ? nr_bytes != 0 : K != CHAINED; }
    template <kind K = ANY> u64 *set_of(u64 number) const {
        if constexpr (K == RING || K == CHAINED) return words;
        if (K == ANY && hashed) return words + number % sets * stride;
        return words + (number & last_set) * stride;
    }
    static u8 *bytes_of(u64 *set) { return reinterpret_cast<u8 *>(set + 1); }
    // An entry: its tag and its data.
    u64 *entry_of(u64 *set, u32 way) const { return set + first_entry + 2ULL * way; }
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
    template <kind K = ANY> u64 *find(u64 number, const tag_key &key) const {
        u64 *set = set_of<K>(number);
        const u32 way = way_of<K>(set, key);
        if (way == NIL) return nullptr;
        touch<K>(set, way);
        return entry_of(set, way) + 1;
    }

    // Puts an entry in the place of one that is not valid, or else of the least recently used.
    template <kind K = ANY> void insert(u64 number, const tag_key &key, u64 value) const {
        u64 *set = set_of<K>(number);
        const u32 way = renew_victim<K>(set);
        u64 *entry = entry_of(set, way);
        if (has_bytes<K>()) {
            bytes_of(set)[way] = key.byte();
        } else {
            if (entry[0]) unchain(set, way);
            chain(set, way, key);
        }
        entry[0] = key.tag;
        entry[1] = value;
    }

    // Whether a tag was there; now it is, and the most recently used.
    template <kind K = ANY> bool find_or_insert(u64 number, const tag_key &key) const {
        u64 *set = set_of<K>(number);
        if (!is_tree<K>() && tag_of(set, first_of<K>(set)) == key.tag) return true;
        if (find<K>(number, key)) return true;
        insert<K>(number, key, 0);
        return false;
    }

    void drop(u64 number, u64 tag) const {
        u64 *set = set_of(number);
        const u32 way = way_of(set, tag_key(tag));
        if (way != NIL) drop_way(set, way);
    }

    template <typename Gone> void drop_if(Gone gone) const {
        for (u32 s = 0; s < sets; ++s) drop_in_set(s, gone);
    }

    // Whether anything is left in the set.
    template <typename Gone> bool drop_in_set(u32 s, Gone gone) const {
        u64 *set = words + u64{s} * stride;
        bool left = false;
        for (u32 way = 0; way < ways; ++way) {
            const u64 tag = tag_of(set, way);
            if (!tag) continue;
            if (gone(tag)) {
                drop_way(set, way);
            } else {
                left = true;
            }
        }
        return left;
    }

    u64 set_number(u64 number) const { return hashed ? number % sets : number & last_set; }

    // Whether any(tag) holds for a valid one.
    template <typename Any> bool any_of(Any any) const {
        for (u32 s = 0; s < sets; ++s) {
            u64 *set = words + u64{s} * stride;
            for (u32 way = 0; way < ways; ++way) {
                if (const u64 tag = tag_of(set, way); tag && any(tag)) return true;
            }
        }
        return false;
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

    // Calls visit(tag) for the valid entries of each set, the least recently used first, where there is an
    // order.
    template <typename Visit> void by_age(Visit visit) const {
        for (u32 s = 0; s < sets; ++s) {
            u64 *set = words + u64{s} * stride;
            u32 way = wide() && !plru ? prev_of(set)[*set] : 0;
            for (u32 i = ways; i-- > 0; way = wide() && !plru ? prev_of(set)[way] : way + 1) {
                const u32 at = plru || wide() ? way : static_cast<u32>(*set >> 4 * i & 15);
                if (const u64 tag = tag_of(set, at)) visit(tag);
            }
        }
    }

    // Whether replacement could have left it so (tlb_sound.cpp).
    bool sound() const;

  private:
    bool ring_sound(u64 *set) const;
    bool chains_sound(u64 *set) const;
    bool bytes_sound(u64 *set) const;

    // The way of a tag in its set, or NIL.
    template <kind K = ANY> u32 way_of(u64 *set, const tag_key &key) const {
        return has_bytes<K>() ? scan<K>(set, key) : follow_chain(set, key);
    }

    // Where tags have bytes. What follows the bytes is compared too, and masked.
    template <kind K> u32 scan(u64 *set, const tag_key &key) const {
        const byte_search search(key.byte());
        u64 same = search.equal(set + 1);
        if (wide<K>()) {
            for (u32 word = 2; word < nr_bytes; word += 2)
                same |= u64{search.equal(set + 1 + word)} << 8 * word;
        }
        for (same &= way_bits; same; same &= same - 1) {
            const auto way = static_cast<u32>(std::countr_zero(same));
            if (tag_of(set, way) == key.tag) return way;
        }
        return NIL;
    }

    // The most recently used way, where there is an order.
    template <kind K = ANY> u32 first_of(const u64 *set) const {
        return static_cast<u32>(wide<K>() ? *set : *set & 15);
    }

    // Makes a way the most recently used.
    template <kind K = ANY> void touch(u64 *set, u32 way) const {
        if (is_tree<K>()) {
            *set = plru_tree::touch(*set, way, ways);
        } else if (wide<K>()) {
            if (first_of<K>(set) == way) return;
            put_between_ends(set, way);
            *set = way;
        } else if (first_of<K>(set) != way) {
            *set = lru_word::to_front(*set, way, lru_word::position(*set, way));
        }
    }

    // Wide sets. All ways stand in a ring in LRU order; the set's word is the most recently used one. Chains
    // link ways + 1, 0 for none.
    u16 *prev_of(u64 *set) const { return reinterpret_cast<u16 *>(entry_of(set, ways)); }
    u16 *next_of(u64 *set) const { return prev_of(set) + ways; }
    u16 *chain_of(u64 *set) const { return prev_of(set) + 2 * ways; }
    u16 &bucket(u64 *set, const tag_key &key) const {
        return prev_of(set)[3 * ways + (key.hash >> bucket_shift)];
    }

    u32 follow_chain(u64 *set, const tag_key &key) const {
        u32 link = bucket(set, key);
        while (link && tag_of(set, link - 1) != key.tag) link = chain_of(set)[link - 1];
        return link - 1;
    }

    // The way to be replaced, which becomes the most recently used.
    template <kind K> u32 renew_victim(u64 *set) const {
        if (is_tree<K>()) {
            u32 way = find_free(set);
            if (way == NIL) way = plru_tree::victim(*set, ways);
            *set = plru_tree::touch(*set, way, ways);
            return way;
        }
        if (!wide<K>()) return lru_word::renew_last(set, ways);
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

    void chain(u64 *set, u32 way, const tag_key &key) const {
        u16 &first = bucket(set, key);
        chain_of(set)[way] = first;
        first = static_cast<u16>(way + 1);
    }

    void unchain(u64 *set, u32 way) const {
        u16 *link = &bucket(set, tag_key(tag_of(set, way)));
        while (*link != way + 1) link = &chain_of(set)[*link - 1];
        *link = chain_of(set)[way];
        chain_of(set)[way] = 0;
    }
};

} // namespace thp
