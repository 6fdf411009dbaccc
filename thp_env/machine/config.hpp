// The configuration of a machine: its size, its core, its clock.
#pragma once
#include "features.hpp"
#include "types.hpp"

namespace thp {

// Simulated durations in picoseconds. clock.py gives each its value and source.
#define THP_CLOCK(X)                                                                                         \
    X(cycle)            /* one cycle of the core */                                                          \
    X(fault)            /* exception, VMA lookup, page-table walk, allocation, return */                     \
    X(fault_zero_page)  /* a read fault that maps the zero page */                                           \
    X(fault_reuse)      /* a write fault that only makes a page writable */                                  \
    X(zero_page)        /* zeroing one 4K page of a new folio */                                             \
    X(copy_page)        /* copying one 4K page */                                                            \
    X(syscall)          /* entry, exit and VMA work of one memory system call */                             \
    X(split_vma)        /* splitting or merging a VMA */                                                     \
    X(zap_pte)          /* unmapping one PTE */                                                              \
    X(zap_folio)        /* rmap, accounting and freeing for one batch of PTEs of a folio */                  \
    X(zap_pmd)          /* unmapping one PMD-mapped folio */                                                 \
    X(split_pmd)        /* turning a PMD mapping into 512 PTEs */                                            \
    X(split_folio)      /* splitting a folio: the part that does not depend on its size */                   \
    X(split_page)       /* ... and per page of it */                                                         \
    X(change_pte)       /* mprotect, mremap: per PTE */                                                      \
    X(flush_one)        /* invalidating one TLB entry */                                                     \
    X(flush_all)        /* invalidating an address space */                                                  \
    X(shootdown)        /* interrupting one other CPU that runs the process */                               \
    X(fork)             /* copying an empty address space */                                                 \
    X(fork_pte)         /* sharing one PTE with a child */                                                   \
    X(fork_folio)       /* ... and per batch of PTEs of a folio */                                           \
    X(fork_pmd)         /* sharing one PMD */                                                                \
    X(swap_out_page)    /* compressing one page to zram: the part that does not depend on its content */     \
    X(swap_out_percent) /* ... and per percent of a page that it compresses to */                            \
    X(swap_out_incompressible) /* trying to compress one page, and keeping it as it is */                    \
    X(swap_in_page)            /* decompressing one page */                                                  \
    X(swap_in_percent)         /* ... and per percent of a page */                                           \
    X(swap_in_incompressible)  /* copying one page back */                                                   \
    X(collapse)                /* collapse: what does not depend on the pages */                             \
    X(collapse_folio)          /* ... isolating one folio that is replaced */                                \
    X(scan_pte)                /* reading and clearing one accessed bit */                                   \
    X(contpte_convert)         /* clearing and rewriting the 16 PTEs of a contpte block */                   \
    X(migrate_page)            /* moving one 4K page to another frame */                                     \
    X(compact_scan)            /* looking at one page for compaction */                                      \
    X(pmu_sample)              /* taking one sample of a page walk */

struct clock_table {
#define X(name) u64 name;
    THP_CLOCK(X)
#undef X
};

// One set-associative array of translations. ways = entries and sets = 1: fully associative; ways = 0:
// absent.
struct tlb_geometry {
    u32 sets, ways;
};

// Arrays of the data TLB, and which page sizes an entry can have. Coalesced: an aligned run of PTEs with the
// same bits that map contiguous frames; contpte: 16 PTEs with arm64's contiguous bit.
enum tlb_array_id : u32 { L1_4K, L1_2M, L1_1G, L2, L2_2M, L2_1G, NR_TLB_ARRAYS };
enum page_size : u32 { SIZE_4K, SIZE_COALESCED, SIZE_CONTPTE, SIZE_2M, SIZE_1G, NR_PAGE_SIZES };
constexpr u32 MAX_ASIDS = 16;
constexpr u32 NR_PWC = 3; // page-walk caches: PDE, PDPTE, PML4E

struct tlb_config {
    tlb_geometry arrays[NR_TLB_ARRAYS];
    u32 of_size[2][NR_PAGE_SIZES]; // which array holds a page size at each level; NIL: in smaller pieces
    tlb_geometry pwc[NR_PWC];
    u32 coalesced_order; // log2 of the PTEs in a coalesced entry; 0: the core does not coalesce
    u32 plru;            // tree-PLRU instead of LRU: a bit for each of arrays, then of pwc
    u32 hashed;          // sets are chosen by a hash (modulo), so they need not be a power of two
    u32 nr_asids;        // address spaces that keep their translations across context switches; 0: all
    u32 l2_hit_cycles;
    u32 walk_cycles[4]; // one reference at PGD, PUD, PMD, PTE
    // Under a hypervisor every reference of a walk, and its result, is translated by the host's page tables.
    // Or, without one, a reference takes longer where its line of a page table is in no cache.
    u32 nested_shift; // page size of the host, 12 or 21; LINE_SHIFT: lines of page tables; 0: neither
    u32 nested_cycles, reserved;
    tlb_geometry nested; // guest-physical to host-physical translations, or lines
};

// Which architecture's page-table code runs. arm64 with BBML2: unfolding needs no TLB invalidation (X4).
enum architecture : u32 { ARCH_X86_64, ARCH_ARM64, ARCH_ARM64_BBML2, NR_ARCHS };

struct machine_config {
    u64 nr_pages, flush_time; // flush_time: ps from which on statistics of the LRU lists are out of date
    u32 max_vmas, max_mms, max_page_tables, nr_cpus;
    u32 shadow_tlb, time_by_vma; // time_by_vma: keep time by VMA too
    u32 arch, min_free_kbytes;   // min_free_kbytes: NIL as the kernel computes it
    u32 features, pool_blocks;   // one bit a feature; 64K blocks in the reserve of pool_64k
    tlb_config tlb;
    clock_table clock;
};

} // namespace thp
