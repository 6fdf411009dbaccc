// The operations of a trace program, one record each. traces/ writes them, run.cpp executes them.
#pragma once
#include "types.hpp"

namespace thp {

// X(name, what the record's fields hold). Numbers are part of the file format: append, never reorder.
#define THP_OPS(X)                                                                                           \
    X(thp, "a=order b=mode")                                                                                 \
    X(set, "a=setting b=value aux=cgroup")                                                                   \
    X(mmap, "region length a=address|alignment|offset b=slot_offset c=placement d=vm_flags aux=region")      \
    X(munmap, "region offset length")                                                                        \
    X(mprotect, "region offset length a=vm_flags")                                                           \
    X(mremap, "region offset length a=new_length|alignment b=slot_offset c=placement d=address aux=region")  \
    X(brk, "region length")                                                                                  \
    X(advise, "region offset length a=advice")                                                               \
    X(touch, "region offset length a=stride b=kind c=content")                                               \
    X(mlock, "region offset length")                                                                         \
    X(munlock, "region offset length")                                                                       \
    X(prctl, "a=disable b=flags")                                                                            \
    X(shrink, "")                                                                                            \
    X(exit, "aux=process")                                                                                   \
    X(access, "region offset length a=pattern b=count c=ps d=write_share|content weight aux=table|stride")   \
    X(replay, "offset=first length=count c=ps d=content weight")                                             \
    X(compute, "a=ps")                                                                                       \
    X(slice, "process")                                                                                      \
    X(orders, "region offset length a=mask")                                                                 \
    X(split, "region offset length")                                                                         \
    X(fork, "aux=process")                                                                                   \
    X(pin, "region offset length")                                                                           \
    X(unpin, "")                                                                                             \
    X(swap, "length")                                                                                        \
    X(reclaim, "aux=cgroup")                                                                                 \
    X(khugepaged, "a=rounds")                                                                                \
    X(limit, "length aux=cgroup")                                                                            \
    X(swapoff, "")                                                                                           \
    X(drain, "")                                                                                             \
    X(pollute, "a=share of 2^16")                                                                            \
    X(fragment, "a=order b=index in thousandths")                                                            \
    X(compact, "")                                                                                           \
    X(iovec, "region offset length")                                                                         \
    X(process_madvise, "a=advice b=ranges: the operations before it c=orders aux=process")                   \
    X(capdrop, "")                                                                                           \
    X(collapse, "region offset length a=order")                                                              \
    X(cgroup, "aux=cgroup")

enum op_code : u16 {
#define X(name, fields) OP_##name,
    THP_OPS(X)
#undef X
        NR_OPS
};

enum thp_mode : u64 { THP_NEVER, THP_MADVISE, THP_ALWAYS, THP_INHERIT };
enum thp_setting : u64 {
    SET_ENABLED,
    SET_USE_ZERO_PAGE,
    SET_SHRINK_UNDERUSED,
    SET_MAX_PTES_NONE,
    SET_MAX_PTES_SHARED,
    SET_MAX_PTES_SWAP,
    SET_DEFRAG,
    SET_SWAPPINESS,
    SET_LRU_BATCHES,
    SET_KHUGEPAGED_DEFRAG,
    NR_SETTINGS
};
// /sys/kernel/mm/transparent_hugepage/defrag: who waits for memory for a large folio.
enum thp_defrag : u64 { DEFRAG_NEVER, DEFRAG_MADVISE, DEFRAG_DEFER_MADVISE, DEFRAG_DEFER, DEFRAG_ALWAYS };
enum placement : u64 { AT_SLOT, AT_UNMAPPED_AREA, AT_ADDRESS, AT_REGION };
enum touch_kind : u64 { TOUCH_READ, TOUCH_WRITE, TOUCH_WRITEZ, TOUCH_FILL };
enum access_pattern : u64 { PATTERN_STRIDE, PATTERN_UNIFORM, PATTERN_BINS, PATTERN_CHASE };
// Values of include/uapi/asm-generic/mman-common.h.
enum advice : u64 {
    MADV_NORMAL = 0,
    MADV_WILLNEED = 3,
    MADV_DONTNEED = 4,
    MADV_FREE = 8,
    MADV_DONTFORK = 10,
    MADV_DOFORK = 11,
    MADV_HUGEPAGE = 14,
    MADV_NOHUGEPAGE = 15,
    MADV_WIPEONFORK = 18,
    MADV_KEEPONFORK = 19,
    MADV_COLD = 20,
    MADV_PAGEOUT = 21,
    MADV_POPULATE_READ = 22,
    MADV_POPULATE_WRITE = 23,
    MADV_COLLAPSE = 25,
    MADV_GUARD_INSTALL = 102,
    MADV_GUARD_REMOVE = 103,
};

struct op_record {
    u16 op, process;
    u32 region;
    u64 offset, length, a, b, c, d;
    u32 weight, aux;
};
static_assert(sizeof(op_record) == 64);

// One run of accesses to one page in a recording: `count` accesses, `instructions` until the next run.
struct access_record {
    u32 page;
    u16 region, written;
    u32 count, instructions;
};
static_assert(sizeof(access_record) == 16);

// A discrete distribution over pages as an alias table (Walker 1977) of bins; a bin is a run of ranks.
struct bin_record {
    u64 threshold;                    // of 2^32: below it this bin, else the alias
    u32 alias, first, count, scatter; // scatter: ranks are permuted over the range's pages
};
static_assert(sizeof(bin_record) == 24);

} // namespace thp
