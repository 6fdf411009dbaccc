/* What the log reader and the valgrind tool share: a TLB, and which windows are sampled.

   The TLB is a small one of two levels for 4K pages: 64 entries in 4 ways, 1536 in 12 ways, LRU. It sees
   every recorded access of a run, and afterwards the sampled ones: the difference is the sampling error. */
#ifndef THP_TLB_MODEL_H
#define THP_TLB_MODEL_H

enum { FIRST_SETS = 16, FIRST_WAYS = 4, SECOND_SETS = 128, SECOND_WAYS = 12 };

/* Shift while searching: one pass moves `page` to the front of its set and drops the last one on a miss. 0 =
 * empty. */
static inline int tlb_hit(unsigned long long *sets, unsigned number, unsigned ways, unsigned long long page) {
    unsigned long long *set = &sets[page % number * ways];
    unsigned long long carried = page + 1, entry;
    unsigned way;
    for (way = 0; way < ways; way++) {
        entry = set[way];
        set[way] = carried;
        carried = entry;
        if (carried == page + 1) return 1;
    }
    return 0;
}

/* The finalizer of MurmurHash3. */
static inline unsigned long long window_mix(unsigned long long x) {
    x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdULL;
    x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53ULL;
    return x ^ (x >> 33);
}

/* The highest level at which a window is kept. At level L one of every 2^L neighbouring windows is, the
   choice being pseudo-random and nested. Random places inside each period avoid resonance with the program's
   loops. */
static inline unsigned window_rank(unsigned long long index) {
    unsigned level = 0;
    for (; level < 40; level++, index >>= 1)
        if ((index & 1) != (window_mix((index >> 1 << 6) + level + 1) & 1)) break;
    return level;
}

#endif
