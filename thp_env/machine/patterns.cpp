#include "patterns.hpp"
#include <algorithm>

// Loops over arrays are compiled for several instruction sets too; the loader chooses.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define THP_CLONES [[gnu::target_clones("default", "avx2", "arch=skylake-avx512")]]
#else
#define THP_CLONES
#endif

namespace thp {

namespace {

THP_CLONES void draw_all(u64 key, u64 first, u64 nr, u64 *out) {
    for (u64 i = 0; i < nr; ++i) out[i] = draw(key, first + i);
}

THP_CLONES void mix_all(const u64 *x, u64 nr, u64 *out) {
    for (u64 i = 0; i < nr; ++i) out[i] = mix64(x[i]);
}

THP_CLONES void lines_of_whole_pages(const u64 *random, u64 nr, u64 *page) {
    for (u64 i = 0; i < nr; ++i) page[i] = page[i] * PAGE_SIZE + (random[i] & 63) * 64;
}

THP_CLONES void walk_all(const permutation &p, u64 nr, u64 *x) {
    const permutation local = p;
    for (u64 i = 0; i < nr; ++i) x[i] = local.walk(x[i]);
}

// permute() of each. When one ends cannot be predicted, so all make a step at a time.
void permute_all(u64 n, u64 key, u64 nr, u64 *x) {
    const permutation p(n, key);
    u64 outside[pattern::MOST], left = 0;
    walk_all(p, nr, x);
    for (u64 i = 0; i < nr; ++i) {
        outside[left] = i;
        left += x[i] >= n;
    }
    while (left) {
        u64 still = 0;
        for (u64 k = 0; k < left; ++k) {
            const u64 i = outside[k];
            x[i] = p.walk(x[i]);
            outside[still] = i;
            still += x[i] >= n;
        }
        left = still;
    }
}

} // namespace

void pattern::write(u64 first, u64 nr, u64 *out) const {
    u64 random[MOST];
    if (op.pattern != PATTERN_STRIDE) draw_all(key, first, nr, random);
    switch (op.pattern) {
    case PATTERN_STRIDE:
        stride(first, nr, out);
        break;
    case PATTERN_UNIFORM:
        for (u64 i = 0; i < nr; ++i) out[i] = below(random[i], op.length / 64) * 64;
        break;
    case PATTERN_CHASE:
        chase(first, nr, out);
        lines(random, nr, out);
        break;
    default:
        draw_bins(random, nr, out);
        lines(random, nr, out);
    }
}

void pattern::stride(u64 first, u64 nr, u64 *out) const {
    if (first + nr > ~0ULL / std::max(op.stride, 1U)) { // beyond 2^64 bytes
        for (u64 i = 0; i < nr; ++i) out[i] = remainder((first + i) * op.stride, op.length);
        return;
    }
    const u64 step = remainder(op.stride, op.length), length = op.length;
    u64 at = remainder(first * op.stride, length);
    for (u64 i = 0; i < nr; ++i) {
        out[i] = at;
        at += step;
        if (at >= length) at -= length;
    }
}

// Each page once a round.
void pattern::chase(u64 first, u64 nr, u64 *page) const {
    const u64 n = pages();
    u64 position = first % n;
    for (u64 i = 0; i < nr; ++i) {
        page[i] = position;
        position = position + 1 == n ? 0 : position + 1;
    }
    permute_all(n, key, nr, page);
}

// random: what draws the bins, and then what draws lines.
void pattern::draw_bins(u64 *random, u64 nr, u64 *page) const {
    const u64 n = pages(), of_bins = nr_bins;
    const bin_record *const table = bins;
    u64 second[MOST], scattered[MOST], any = 0, all = ~0ULL;
    mix_all(random, nr, second);
    u64 drawn[MOST];
    for (u64 i = 0; i < nr; ++i) __builtin_prefetch(table + (drawn[i] = below(random[i], of_bins)));
    for (u64 i = 0; i < nr; ++i) {
        const u64 index = drawn[i];
        // Which of the two cannot be predicted: no branch.
        const u64 other = 0ULL - ((second[i] & 0xffffffffU) >= table[index].threshold);
        __builtin_prefetch(table + (drawn[i] = index ^ ((index ^ table[index].alias) & other)));
    }
    for (u64 i = 0; i < nr; ++i) {
        const bin_record &bin = table[drawn[i]];
        page[i] = remainder(bin.first + ((second[i] >> 32) * bin.count >> 32), n);
        scattered[i] = 0ULL - (bin.scatter != 0);
        any |= scattered[i];
        all &= scattered[i];
    }
    mix_all(second, nr, random);
    if (!any) return;
    const u64 scatter_key = op.offset ^ 0x5bf03635f0935ad1ULL;
    if (all) return permute_all(n, scatter_key, nr, page);
    u64 permuted[MOST];
    std::copy_n(page, nr, permuted);
    permute_all(n, scatter_key, nr, permuted);
    for (u64 i = 0; i < nr; ++i) page[i] ^= (page[i] ^ permuted[i]) & scattered[i];
}

// From pages to offsets of one of their lines; the last page may be cut.
void pattern::lines(const u64 *random, u64 nr, u64 *page) const {
    if (op.length % PAGE_SIZE == 0) return lines_of_whole_pages(random, nr, page);
    for (u64 i = 0; i < nr; ++i) page[i] = remainder(page[i] * PAGE_SIZE + (random[i] & 63) * 64, op.length);
}

} // namespace thp
