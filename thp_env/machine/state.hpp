// The state of a machine: plain records in one arena that never moves. Records refer to each other by index.
#pragma once
#include "arena.hpp"
#include "config.hpp"
#include "counters.hpp"
#include "hardware/tlb_levels.hpp"
#include "host_memory.hpp"
#include "latency.hpp"
#include "memcg.hpp"
#include "mmzone.hpp"
#include "ops.hpp"
#include "page.hpp"
#include "policy_signals.hpp"
#include "types.hpp"
#include "vma_index.hpp"
#include "watch.hpp"
#include <algorithm>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

namespace thp {

// When a policy was last asked about a VMA, and the VMA's statistics then; number 0: never. walks: sampled
// since then; idle: how often in a row it was asked about for nothing but having grown idle.
struct vma_question {
    u64 number, faults, zapped, clock, walks, idle;
};

struct vm_area_struct {
    u64 vm_start, vm_end, vm_pgoff;
    u32 vm_flags, vm_mm;
    u32 anon_vma;
    u32 anon_next, anon_prev; // VMAs of the same anon_vma
    u32 orders;               // E1: the orders this VMA may use; 0 = no mask of its own
    u32 id;                   // unique over the run; a split's smaller part gets a new one
    u32 vm_file;              // 1 + where the file's pages start in the page cache; 0: anonymous memory
    u32 file_pages;
    u32 next_free;
    u64 born; // ps
    u64 swap_readahead;
    u64 faults[PMD_ORDER + 1]; // faults that allocated, by the order they got
    u64 zapped, zap_calls;     // pages unmapped again, and in how many calls
    vma_question asked;
    u64 times[NR_TIMES]; // ps spent for it, if machine_config.time_by_vma
};

struct mm_struct {
    u32 pgd;
    u32 in_use;
    u64 mmap_base, start_brk, brk;
    u64 rss, swapents, minflt, majflt; // pages, swap entries, faults
    u32 thp_disable;                   // 0, 1, or 2: PR_THP_DISABLE_EXCEPT_ADVISED
    u32 huge_zero;                     // holds a reference to the huge zero folio
    u32 map_count, next_free;
    u32 khugepaged, no_sys_nice; // on khugepaged's list; without CAP_SYS_NICE
    u32 memcg, spare;            // the control group that pays
};

// VMAs are listed under the root of a family of processes, so that one list finds every mapping of a folio.
struct anon_vma {
    u32 head; // VMAs, in a root
    u32 root, users;
    u32 next_free;
};

struct region {
    u64 start, length;
};

struct swap_slot {
    u16 count;                          // page-table entries that refer to it
    u8 content, zeromap, taken, stored; // taken: allocated, but no entry refers to it yet
    u8 memcg, spare;                    // stored: the content class of what zram keeps for it; 0: no memory
    u32 cached;                         // 1 + the page in the swap cache; 0: none
    u32 evicted;                        // the shadow entry: what workingset.cpp notes
                                        // memcg: 1 + the group that it is charged to
};

constexpr u32 SWAPFILE_CLUSTER = 512;    // slots
constexpr u32 MAX_SWAP_SLOTS = 1U << 26; // 256 GiB

struct swap_cluster {
    u16 count;
    u8 order, list;
    u32 next, prev;
};

constexpr u32 NR_ZS_CLASSES = 119; // see zsmalloc.hpp

struct zs_class {
    u32 objects, pages, head, reserved;
};

constexpr u32 NR_CLUSTER_LISTS = 2 + 2 * (PMD_ORDER + 1); // see swap.cpp

constexpr u32 FOLIO_BATCH_SIZE = 31; // include/linux/pagevec.h

struct folio_batch {
    u32 nr, folios[FOLIO_BATCH_SIZE];
};

// A page that a process has pinned for I/O.
struct pin {
    u32 pfn, process;
};

// Who is asked for the order of a fault: nobody; somebody who does not see the address (the proposed
// thp_get_order); somebody who does.
enum order_hook : u32 { ORDERS_NOT_ASKED, ORDERS_BPF, ORDERS_BY_ADDRESS, NR_ORDER_HOOKS };
// include/linux/huge_mm.h, as the proposal extends it: for whom.
enum tva_type : u32 { TVA_PAGEFAULT, TVA_KHUGEPAGED, TVA_SWAP_PAGEFAULT, NR_TVA_TYPES };
// pr_warn_once: reasons, a bit each.
enum warn_once : u32 { WARN_mthp_max_ptes_none = 1U << 0 };
enum order_state : u32 { ORDER_IDLE, ORDER_ASKED, ORDER_ANSWERED };

// What the machine waits for: nothing of the fault has happened yet.
struct order_question {
    u64 address;
    u32 mm, type, orders, state; // orders: that may be answered, besides 0
};

// What was answered about one 2M block of one VMA, by type.
struct order_answer {
    u64 block; // address >> PMD_SHIFT
    u32 vma;   // id
    u8 order[NR_TVA_TYPES], spare;
};
constexpr u8 ORDER_NOT_ASKED = 0xff;

// How far a call has come that paused because its host wanted the run to end: 0, or the page where it goes
// on, and what it keeps until its end (zap_page_range).
struct call_progress {
    u64 reached, flush_start, flush_end, rss;
    u32 flush_shift, spare;
};

// What a flush took from the TLB or from a page-walk cache.
struct lost_translation {
    u64 address;
    u32 mm;
    u16 from, size; // from: lost_from; size: page_size
};
enum lost_from : u16 { LOST_TLB, LOST_SHADOW, LOST_PWC }; // LOST_PWC + i: pwc[i]; + NR_PWC: the shadow's
constexpr u32 MAX_LOST_TRANSLATIONS = 1U << 14;

constexpr int EPAUSED = 4097; // of a call that goes on where it stands; no errno is that high

struct cursor {
    u64 op, step; // operation, how far into it
    i64 error;    // what the last system call returned: 0 or a negative errno
    u32 time_vma_id,
        oom; // the id of the VMA that time was spent for where the operation paused; it ended by RUN_OOM
    call_progress call;
};

// Where simulated time and counts of accesses end: as signed numbers they are positive, and what follows from
// one more access does not wrap. A run that gets there ends with RUN_OVERFLOW.
constexpr u64 CLOCK_MAX = (1ULL << 63) - 1; // ps: 106 days
constexpr u64 COUNT_MAX = 1ULL << 62;
constexpr u64 saturating_add(u64 a, u64 b) { return a + b < a ? ~0ULL : a + b; }
constexpr u64 saturating_mul(u64 a, u64 b) {
    u64 product = 0;
    return __builtin_mul_overflow(a, b, &product) ? ~0ULL : product;
}

struct header {
    u64 magic, size;
    machine_config config;
    arena_array arrays[NR_ARRAYS];
    // Clock and counters.
    u64 clock; // ps
    u64 times[NR_TIMES];
    u64 vm[NR_VM_EVENTS];
    u64 mthp[PMD_ORDER + 1][NR_MTHP_STATS];
    u64 fault_latency[NR_LATENCIES]; // page faults by latency_bucket()
    u64 memory_clock;                // ps: until when memory over time is integrated
    u64 memory_rest[3];              // page-picoseconds below one page-microsecond
    // Memory.
    zone_struct zone;
    u32 zero_pfn, huge_zero_pfn, huge_zero_users, next_vma_id;
    u32 nr_vmas, memcg_iter; // memcg_iter: the group that direct reclaim of all begins with
    // Settings.
    u32 thp_enabled, use_zero_page, shrink_underused, max_ptes_none, max_ptes_shared, max_ptes_swap;
    u32 thp_mode[PMD_ORDER + 1];
    u32 thp_defrag, khugepaged_defrag, warned, in_memstall; // warned: what the kernel has warned of once, a
                                                            // bit each
    u32 lru_batches, in_reclaim;                            // whether folios wait in batches; PF_MEMALLOC
    // Swap and the LRU.
    u32 swap_slots, swap_used, swap_next[PMD_ORDER + 1];
    u32 cluster_lists[NR_CLUSTER_LISTS], cluster_tails[NR_CLUSTER_LISTS];
    zs_class zs[NR_ZS_CLASSES];
    folio_batch lru_adds, lru_lazyfrees;
    u64 lru_stats_flushed_at; // ps (memcontrol.cpp)
    u64 nonresident_age;      // evictions and activations so far, of all (workingset.cpp)
    lruvec_cost root_cost;    // of reclaim for the whole system; with one group only, that of the group
    psi_group psi_system;
    u32 task_memcg;            // the group of the process that runs; NIL: a daemon does, which is in none
    u32 memcg_oom;             // 1 + the group whose limit made a page fault fail; 0: none did
    u32 current_mm, next_slot; // the process on the CPU; the next 2 GiB slot
    u32 default_orders, order_hook; // E1: the mask of VMAs that have none of their own; 0 = all
    u32 tlb_sizes, next_asid;       // page sizes that the TLB may hold, a bit each
    u32 asid_mm[MAX_ASIDS];         // the address space behind each ASID; NIL: none
    u64 questions;                  // that policies were asked
    u32 time_vma, weight;           // the VMA that time is spent for, NIL: none, or it is not kept; how many
                                    // real accesses the last one stood for
    order_question question;
    cursor at;
    // The reserve of 64K folios (cont_pte_hugepage.cpp). lost: blocks that were split and not replaced yet.
    u32 pool_head, pool_lost, pool_lent, pool_peak;
    u64 pool_peak_at, pool_refilled_at; // ps
    policy_signals policy;
};

template <typename T> constexpr bool plain = std::has_unique_object_representations_v<T>;
static_assert(sizeof(page) == 64 && plain<page> && plain<vm_area_struct> && plain<mm_struct> &&
              plain<header>);
static_assert(plain<mem_cgroup> && plain<swap_slot> && plain<swap_cluster>);
static_assert(plain<region> && plain<anon_vma> && plain<op_record>);
static_assert(sizeof(order_answer) == 16 && plain<order_answer>);
static_assert(plain<walk_sample> && plain<policy_signals> && plain<lost_translation> && plain<walked_block>);

// What a program needs arrays for.
struct program_size {
    u32 regions, processes, swap_slots, file_pages;
};

// A machine: the arena and typed views of it. The trace program it runs is shared and read-only.
struct machine {
    header *h = nullptr;
    page_records pages = {};
#define X(name, record, capacity) std::remove_extent_t<record> *name = nullptr;
#define VIEW(name, record, capacity)
    THP_ARENA(X, VIEW)
#undef VIEW
#undef X
    tlb translations[2];     // over their words in the arena; [1]: the 4K shadow TLB
    mutable host_watch host; // no part of the state
    vma_index vma_ids;
    // A bit for each set of the second-level TLB, for each ASID: whether it may hold translations of it.
    std::vector<u64> asid_sets;

    machine(const machine_config &config, const program_size &program);
    machine(const machine &) = delete;
    machine &operator=(const machine &) = delete;

    // A large machine shares with its clones what neither has changed, and may move to do so
    // (host_memory.hpp).
    machine *clone(u64 share_from = host_memory::SHARE_FROM);
    bool equals(const machine &other) const;
    u64 used_bytes() const;
    // Asks the host at once for memory that is about to be used: a fault for each page costs more.
    void populate(u64 offset, u64 bytes) const { arena_.populate(offset, bytes); }
    // program: a checksum of the program that it runs.
    std::vector<std::byte> save(u64 program) const;
    // What save() of a machine like this one returned. Returns an error, or nothing and sets *out, which
    // validate() has yet to look at.
    std::string load(const std::byte *data, u64 size, u64 program, machine **out) const;

    const clock_table &cost() const { return h->config.clock; }
    void count(vm_event event, u64 n = 1) { h->vm[event] += n; }
    // n events of a simulated access that stands for `weight`.
    void count_weighted(vm_event event, u64 n, u64 weight) {
        h->vm[event] += std::min(saturating_mul(n, weight), COUNT_MAX - std::min(h->vm[event], COUNT_MAX));
    }
    void count(mthp_stat stat, u32 order, i64 n = 1) { h->mthp[order][stat] += static_cast<u64>(n); }
    void spend(time_kind kind, u64 ps) {
        host.work();
        ps = std::min(ps, CLOCK_MAX - h->clock);
        h->clock += ps;
        h->times[kind] += ps;
        if (h->time_vma != NIL) vmas[h->time_vma].times[kind] += ps;
    }

  private:
    machine() = default;
    void make_arena(const header &from);
    void attach();               // sets the views of the arena
    u64 extent(u32 array) const; // bytes in use
    host_memory arena_;
};

// Gives a VMA its id.
inline void set_vma_id(machine &m, u32 vma, u32 id) {
    m.vmas[vma].id = id;
    m.vma_ids.put(id, vma);
}

inline void swap_vma_ids(machine &m, u32 a, u32 b) {
    const u32 id = m.vmas[a].id;
    set_vma_id(m, a, m.vmas[b].id);
    set_vma_id(m, b, id);
}

// While it lives, time is spent for a VMA (NIL: for nobody in particular).
struct attribute_time_to {
    machine &m;
    u32 before;
    attribute_time_to(machine &machine, u32 vma) : m(machine), before(machine.h->time_vma) {
        if (m.h->config.time_by_vma) m.h->time_vma = vma;
    }
    ~attribute_time_to() { m.h->time_vma = before; }
    attribute_time_to(const attribute_time_to &) = delete;
    attribute_time_to &operator=(const attribute_time_to &) = delete;
};

// The head of a frame's folio. The tails of 2M folios have no record of it.
inline u32 page_head(const machine &m, u32 pfn) {
    const page &first = m.pages.block_head(pfn);
    if ((first.flags & PG_head) && first.order == PMD_ORDER) return pfn & ~(PAGEBLOCK_NR_PAGES - 1);
    return pfn - m.pages[pfn].tail;
}

inline bool feature(const machine &m, kernel_feature f) { return m.h->config.features >> f & 1; }

std::string check_config(const machine_config &config);

} // namespace thp
