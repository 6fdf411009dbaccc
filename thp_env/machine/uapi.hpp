// What a program says to the kernel: modes, settings, advice, flags. Numbers are part of the file format:
// append, never reorder.
#pragma once
#include "types.hpp"

namespace thp {

// Sets of folio orders: bit o is order o. Anonymous memory knows orders 2 to 9; 0 is a single page.
constexpr u32 THP_ORDERS_ALL_ANON = ((1U << (PMD_ORDER + 1)) - 1) & ~3U,
              THP_ORDERS_ALL = THP_ORDERS_ALL_ANON | 1U;

#define THP_MODES(X) X(NEVER, "never") X(MADVISE, "madvise") X(ALWAYS, "always") X(INHERIT, "inherit")
// /sys/kernel/mm/transparent_hugepage/defrag: who waits for memory for a large folio.
#define THP_DEFRAG_MODES(X)                                                                                  \
    X(NEVER, "never")                                                                                        \
    X(MADVISE, "madvise")                                                                                    \
    X(DEFER_MADVISE, "defer+madvise")                                                                        \
    X(DEFER, "defer")                                                                                        \
    X(ALWAYS, "always")
#define THP_TOUCHES(X) X(READ, "read") X(WRITE, "write") X(WRITEZ, "writez") X(FILL, "fill")
#define THP_PATTERNS(X) X(STRIDE, "stride") X(UNIFORM, "uniform") X(BINS, "bins") X(CHASE, "chase")
// Where a mapping goes.
#define THP_PLACEMENTS(X)                                                                                    \
    X(SLOT, "slot") X(UNMAPPED_AREA, "unmapped_area") X(ADDRESS, "address") X(REGION, "region")

#define X(name, text) THP_##name,
enum thp_mode : u64 { THP_MODES(X) NR_THP_MODES };
#undef X
#define X(name, text) DEFRAG_##name,
enum thp_defrag : u64 { THP_DEFRAG_MODES(X) NR_DEFRAG_MODES };
#undef X
#define X(name, text) TOUCH_##name,
enum touch_kind : u64 { THP_TOUCHES(X) NR_TOUCHES };
#undef X
#define X(name, text) PATTERN_##name,
enum access_pattern : u64 { THP_PATTERNS(X) NR_PATTERNS };
#undef X
#define X(name, text) AT_##name,
enum placement : u64 { THP_PLACEMENTS(X) NR_PLACEMENTS };
#undef X

// X(name, file below /sys/kernel/mm/transparent_hugepage or another name, where a machine holds it, values).
#define THP_SETTINGS(X)                                                                                      \
    X(ENABLED, "enabled", h->thp_enabled, NR_THP_MODES)                                                      \
    X(USE_ZERO_PAGE, "use_zero_page", h->use_zero_page, 2)                                                   \
    X(SHRINK_UNDERUSED, "shrink_underused", h->shrink_underused, 2)                                          \
    X(MAX_PTES_NONE, "khugepaged/max_ptes_none", h->max_ptes_none, HPAGE_PMD_NR)                             \
    X(MAX_PTES_SHARED, "khugepaged/max_ptes_shared", h->max_ptes_shared, HPAGE_PMD_NR)                       \
    X(MAX_PTES_SWAP, "khugepaged/max_ptes_swap", h->max_ptes_swap, HPAGE_PMD_NR)                             \
    X(DEFRAG, "defrag", h->thp_defrag, NR_DEFRAG_MODES)                                                      \
    X(SWAPPINESS, "swappiness", memcgs[memcg].swappiness, 201)                                               \
    X(LRU_BATCHES, "lru_batches", h->lru_batches, 2)                                                         \
    X(KHUGEPAGED_DEFRAG, "khugepaged/defrag", h->khugepaged_defrag, 2)

#define X(name, path, place, values) SET_##name,
enum thp_setting : u64 { THP_SETTINGS(X) NR_SETTINGS };
#undef X
#define X(name, path, place, values) values,
constexpr u32 SETTING_VALUES[NR_SETTINGS] = {THP_SETTINGS(X)};
#undef X

// Values of include/uapi/asm-generic/mman-common.h.
#define THP_ADVICE(X)                                                                                        \
    X(NORMAL, "normal", 0)                                                                                   \
    X(WILLNEED, "willneed", 3)                                                                               \
    X(DONTNEED, "dontneed", 4)                                                                               \
    X(FREE, "free", 8)                                                                                       \
    X(DONTFORK, "dontfork", 10)                                                                              \
    X(DOFORK, "dofork", 11)                                                                                  \
    X(HUGEPAGE, "hugepage", 14)                                                                              \
    X(NOHUGEPAGE, "nohugepage", 15)                                                                          \
    X(WIPEONFORK, "wipeonfork", 18)                                                                          \
    X(KEEPONFORK, "keeponfork", 19)                                                                          \
    X(COLD, "cold", 20)                                                                                      \
    X(PAGEOUT, "pageout", 21)                                                                                \
    X(POPULATE_READ, "populate_read", 22)                                                                    \
    X(POPULATE_WRITE, "populate_write", 23)                                                                  \
    X(COLLAPSE, "collapse", 25)                                                                              \
    X(GUARD_INSTALL, "guard_install", 102)                                                                   \
    X(GUARD_REMOVE, "guard_remove", 103)
// NOLINTNEXTLINE(bugprone-macro-parentheses)
#define X(name, text, number) MADV_##name = number,
enum advice : u64 { THP_ADVICE(X) };
#undef X

// VM_FILE: resident mapping of a file or of shared memory.
#define THP_VM_FLAGS(X)                                                                                      \
    X(VM_READ, 0)                                                                                            \
    X(VM_WRITE, 1)                                                                                           \
    X(VM_FILE, 2)                                                                                            \
    X(VM_LOCKED, 3)                                                                                          \
    X(VM_HUGEPAGE, 4)                                                                                        \
    X(VM_NOHUGEPAGE, 5)                                                                                      \
    X(VM_DONTCOPY, 6)                                                                                        \
    X(VM_WIPEONFORK, 7)                                                                                      \
    X(VM_SHARED, 8)

#define X(name, bit) name = 1U << (bit),
enum vm_flags : u32 { THP_VM_FLAGS(X) };
#undef X

} // namespace thp
