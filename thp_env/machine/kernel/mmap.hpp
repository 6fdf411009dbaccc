// mm/mmap.c, mm/vma.c: the address space of a process.
#pragma once
#include "../state.hpp"

namespace thp {

u32 mm_create(machine &m);
// 0, or -EPAUSED where `call` says how far it has come.
int mm_exit(machine &m, u32 mm, call_progress *call = nullptr);
// A copy of a VMA in another mm, without its pages (vm_area_dup); NIL when the table is full.
u32 vma_dup(machine &m, u32 vma, u32 mm);

// The first VMA of the mm that ends above the address, or NIL.
u32 find_vma(const machine &m, u32 mm, u64 address);
// The VMA that holds the address, or NIL.
u32 vma_lookup(const machine &m, u32 mm, u64 address);
// The VMA after one, or before it, in address order, or NIL.
u32 vma_next(const machine &m, u32 vma);
u32 vma_prev(const machine &m, u32 vma);

// Each returns 0 or a negative errno.
// vm_file: what is mapped, from its start; 0: anonymous memory.
int do_mmap(machine &m, u32 mm, u64 address, u64 length, u32 vm_flags, u32 vm_file = 0);
// Those that take a `call` may return -EPAUSED and are called again to go on.
int do_munmap(machine &m, u32 mm, u64 start, u64 end, call_progress *call = nullptr);
int do_brk(machine &m, u32 mm, u64 brk);
int mprotect(machine &m, u32 mm, u64 start, u64 end, u32 protection);
int mlock(machine &m, u32 mm, u64 start, u64 end, bool on, call_progress *call = nullptr);
// What Linux refuses before it looks at the address space. fixed: MREMAP_FIXED.
int check_mremap_params(u64 from, u64 length, u64 to, u64 new_length, bool fixed);
// Moves and resizes [from, from + length) to `to`, which is free.
int mremap(machine &m, u32 mm, u64 from, u64 length, u64 to, u64 new_length);
int set_vma_orders(machine &m, u32 mm, u64 start, u64 end, u32 orders);

// Top down; at 2M if the length is a multiple of 2M (6.18). 0 when there is no room.
u64 get_unmapped_area(const machine &m, u32 mm, u64 length);

// Makes a VMA longer; nothing may be mapped up to `end`. 0 or -EFAULT when something is.
int vma_expand(machine &m, u32 vma, u64 end);
// Cuts a VMA so that one ends and the next starts at the address.
int split_vma(machine &m, u32 vma, u64 address);
// Merges what can be merged at the edges of VMAs in [start, end].
void vma_merge_range(machine &m, u32 mm, u64 start, u64 end);
// Applies change(vma) to the VMAs in [start, end), cut to fit; skips those for which differs() is false. A
// hole is -ENOMEM: madvise() goes on behind it, mprotect() and mlock() stop.
enum at_hole : bool { GO_ON, STOP };
template <typename Differs, typename Change>
int vma_modify(machine &m, u32 mm, u64 start, u64 end, at_hole hole, Differs differs, Change change);

u32 find_mergeable_anon_vma(const machine &m, u32 vma);

template <typename Differs, typename Change>
int vma_modify(machine &m, u32 mm, u64 start, u64 end, at_hole hole, Differs differs, Change change) {
    int result = 0;
    u64 at = start;
    for (u32 v = find_vma(m, mm, start); at < end; v = vma_next(m, v)) {
        if (v == NIL || m.vmas[v].vm_start > at) result = -12; // -ENOMEM
        if (v == NIL || m.vmas[v].vm_start >= end || (result && hole == STOP)) break;
        if (differs(m.vmas[v])) {
            if (m.vmas[v].vm_start < start) {
                if (int error = split_vma(m, v, start)) return error;
                v = vma_lookup(m, mm, start);
            }
            if (m.vmas[v].vm_end > end) {
                if (int error = split_vma(m, v, end)) return error;
                v = vma_lookup(m, mm, end - PAGE_SIZE);
            }
            change(v);
        }
        at = m.vmas[v].vm_end;
    }
    vma_merge_range(m, mm, start, end);
    return result;
}

} // namespace thp
