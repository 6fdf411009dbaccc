// The arrays of the arena: which there are, of what, and how many records each may hold.
#pragma once
#include "types.hpp"

namespace thp {

// X(name, record, capacity) makes an array of which the machine has a pointer, of the array's name; VIEW one
// that it sees through something else. In the order of the arena. `config`, `program` and `frames` are what
// it is built from.
#define THP_ARENA(X, VIEW)                                                                                   \
    VIEW(pages, page, frames)                                                                                \
    /* The records of the first pages of page blocks. */                                                     \
    VIEW(block_heads, page, (frames >> PAGEBLOCK_ORDER) + 1)                                                 \
    X(contents, u8, frames)                                                                                  \
    /* The flags of each (buddy.hpp). */                                                                     \
    X(pageblocks, u8, (frames >> PAGEBLOCK_ORDER) + 1)                                                       \
    /* Entry i of table t: page_tables[t * 512 + i]. */                                                      \
    X(page_tables, page_table, config.max_page_tables)                                                       \
    X(page_table_frames, u32, config.max_page_tables)                                                        \
    X(vmas, vm_area_struct, config.max_vmas)                                                                 \
    /* VMAs sorted by (mm, start). */                                                                        \
    X(vma_order, u32, config.max_vmas)                                                                       \
    X(mms, mm_struct, config.max_mms)                                                                        \
    X(anon_vmas, anon_vma, config.max_vmas)                                                                  \
    X(regions, region, program.regions)                                                                      \
    X(pins, pin, frames)                                                                                     \
    /* The frame of each page of each file; 0: not cached. */                                                \
    X(page_cache, u32, program.file_pages)                                                                   \
    X(swap, swap_slot, program.swap_slots)                                                                   \
    X(clusters, swap_cluster, program.swap_slots / SWAPFILE_CLUSTER + 1)                                     \
    /* The mm of each process of the program. */                                                             \
    X(processes, u32, program.processes)                                                                     \
    VIEW(tlb, u64, tlb_words(config.tlb) * (config.shadow_tlb ? 2 : 1))                                      \
    /* A hash table: kernel/huge_memory_bpf.cpp. */                                                          \
    X(order_answers, order_answer, std::bit_ceil(4 * (config.max_page_tables + config.max_vmas)))            \
    /* Since accesses that stand for several began, or went on (hardware/refill.cpp). */                     \
    X(lost_translations, lost_translation, MAX_LOST_TRANSLATIONS)                                            \
    /* Those that nobody has read yet. */                                                                    \
    X(walk_samples, walk_sample, MAX_WALK_SAMPLES)                                                           \
    /* Where walks were sampled: a hash table. */                                                            \
    X(walked_blocks, walked_block, MAX_WALKED_BLOCKS)                                                        \
    /* The first is what everything runs in that is moved nowhere else. */                                   \
    X(memcgs, mem_cgroup, MAX_MEMCGS)                                                                        \
    /* Whether each process of the program was. */                                                           \
    X(oom_killed, u8, program.processes)

enum arena_array_id : u32 {
#define X(name, record, capacity) ARRAY_##name,
    THP_ARENA(X, X)
#undef X
        NR_ARRAYS
};

// Records of one kind: how many there may be, how many were ever used, and the list of free ones.
struct arena_array {
    u64 offset; // in the arena
    u32 capacity, used, free, in_use;
};

using page_table = u64[PTRS_PER_TABLE];

// Takes a zeroed record from an array with a list of free ones; NIL when the array is full.
template <typename T> u32 record_alloc(arena_array &t, T *records) {
    u32 i = t.free;
    if (i != NIL) {
        t.free = records[i].next_free;
    } else if (t.used < t.capacity) {
        i = t.used++;
    } else {
        return NIL;
    }
    records[i] = T{};
    ++t.in_use;
    return i;
}

template <typename T> void record_free(arena_array &t, T *records, u32 i) {
    records[i] = T{};
    records[i].next_free = t.free;
    t.free = i;
    --t.in_use;
}

} // namespace thp
