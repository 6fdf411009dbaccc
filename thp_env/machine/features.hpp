// Switches of the kernel, one a bit: what mainline 6.18 does, what the vendor kernel of the seed thread
// (OPPO's 5.15) did, and what came later. features.py has the presets, docs/reference/features.md the
// sources.
#pragma once
#include "types.hpp"

namespace thp {

#define THP_FEATURES(X)                                                                                      \
    X(fork_batch)       /* fork copies runs of PTEs of one folio at once */                                  \
    X(entire_mapcount)  /* one mapping counts a folded 64K folio, split to pages by DoubleMap */             \
    X(precise_sharing)  /* whether several processes map a folio is known exactly, not by two slots */       \
    X(page_count_reuse) /* a write reuses a page only while the folio has one reference */                   \
    X(vma_64k)          /* faults allocate 64K where the VMA's own mask says so, else 4K */                  \
    X(cow_64k)          /* a write to a shared 64K block copies all of it */                                 \
    X(zero_64k)         /* a read fault maps 16 zero pages, folded */                                        \
    X(swapin_whole)     /* a folio comes back from swap as large as it went */                               \
    X(reclaim_whole)    /* 64K folios have an LRU of their own and are never split by reclaim */             \
    X(pool_64k)         /* a reserve of 64K folios */                                                        \
    X(collapse_mthp)    /* khugepaged collapses to smaller sizes, too */                                     \
    X(zero_cow)         /* a write to a zero page gets the folio that it would have got without the read */  \
    X(remote_hints)     /* process_madvise sets MADV_HUGEPAGE and a set of sizes for another process */

enum kernel_feature : u32 {
#define X(name) FEATURE_##name,
    THP_FEATURES(X)
#undef X
        NR_FEATURES
};

} // namespace thp
