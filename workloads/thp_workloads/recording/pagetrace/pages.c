/* What is known of each 4K page of the guest, and which kind of memory each range is.
   SPDX-License-Identifier: GPL-2.0-or-later */
#include "pagetrace.h"

enum { LEAF_BITS = 18, LEAF = 1 << LEAF_BITS, LEAVES = 1 << (47 - PAGE_SHIFT - LEAF_BITS) };

static UChar *leaves[LEAVES]; /* one byte a page; a leaf covers 1 GiB */
static RangeMap *ranges;      /* kind | protection << 4 */

static void *allocate(const HChar *name, SizeT bytes) { return VG_(malloc)(name, bytes); }

void pt_pages_init(void) { ranges = VG_(newRangeMap)(allocate, "pagetrace.ranges", VG_(free), UNMAPPED); }

UChar *pt_state(ULong page) {
    const ULong top = page >> LEAF_BITS & (LEAVES - 1);
    if (!leaves[top]) leaves[top] = VG_(calloc)("pagetrace.leaf", LEAF, 1);
    return leaves[top] + (page & (LEAF - 1));
}

/* Calls change(states, count) for the pages of a range that were looked at. */
static void each(Addr start, ULong length, void (*change)(UChar *, ULong, UInt), UInt argument) {
    ULong page = start >> PAGE_SHIFT;
    const ULong end = page_up(start + length) >> PAGE_SHIFT;
    while (page < end && page >> LEAF_BITS < LEAVES) {
        const ULong stop = (page | (LEAF - 1)) + 1 < end ? (page | (LEAF - 1)) + 1 : end;
        if (leaves[page >> LEAF_BITS]) change(pt_state(page), stop - page, argument);
        page = stop;
    }
}

static void set_all(UChar *state, ULong n, UInt value) { VG_(memset)(state, value, n); }

static void zap_all(UChar *state, ULong n, UInt unused) {
    for (; n--; state++)
        if ((*state & STATE_BITS) != OTHER && (*state & STATE_BITS) != SHARED) *state &= ~STATE_BITS;
}

static void bar_all(UChar *state, ULong n, UInt bars) {
    for (; n--; state++) *state = (*state & STATE_BITS) | bars;
}

static void share_all(UChar *state, ULong n, UInt unused) {
    for (; n--; state++)
        if ((*state & STATE_BITS) == WRITTEN) *state = (*state & ~STATE_BITS) | READ;
}

static UInt bars_of(UInt protection) {
    return (protection & VKI_PROT_WRITE ? 0 : NO_WRITE) |
           (protection & (VKI_PROT_READ | VKI_PROT_WRITE) ? 0 : NO_READ);
}

static void bind(Addr start, ULong length, UInt value) {
    if (length) VG_(bindRangeMap)(ranges, start, start + length - 1, value);
}

void pt_map(Addr start, ULong length, UInt kind, UInt protection) {
    length = page_up(length);
    bind(start, length, kind | protection << 4);
    each(start, length, set_all, UNKNOWN | bars_of(protection));
    pt_forget();
}

void pt_unmap(Addr start, ULong length) { pt_map(start, length, UNMAPPED, 0); }

void pt_protect(Addr start, ULong length, UInt protection) {
    const Addr end = start + page_up(length);
    Addr at = start;
    while (at < end) {
        UWord first, last, value;
        VG_(lookupRangeMap)(&first, &last, &value, ranges, at);
        if (last >= end - 1 || last < at) last = end - 1;
        bind(at, last + 1 - at, (value & 15) | protection << 4);
        at = last + 1;
    }
    each(start, length, bar_all, bars_of(protection));
    pt_forget();
}

void pt_zap(Addr start, ULong length) {
    each(start, length, zap_all, 0);
    pt_forget();
}

void pt_move(Addr from, ULong old_length, Addr to, ULong new_length, Bool keep) {
    const ULong old_pages = page_up(old_length) >> PAGE_SHIFT, new_pages = page_up(new_length) >> PAGE_SHIFT;
    const ULong both = old_pages < new_pages ? old_pages : new_pages;
    UWord first, last, value;
    UChar *moved = VG_(malloc)("pagetrace.move", both + 1);
    ULong i;
    VG_(lookupRangeMap)(&first, &last, &value, ranges, from);
    for (i = 0; i < both; i++) moved[i] = *pt_state((from >> PAGE_SHIFT) + i);
    if (keep)
        pt_zap(from, old_length);
    else
        pt_unmap(from, old_length);
    pt_map(to, new_length, value & 15, value >> 4);
    for (i = 0; i < both; i++) *pt_state((to >> PAGE_SHIFT) + i) = moved[i];
    VG_(free)(moved);
}

/* The first write to a page on either side copies it or takes it over: a fault. */
void pt_fork_pages(void) {
    UInt i;
    for (i = 0; i < LEAVES; i++)
        if (leaves[i]) share_all(leaves[i], LEAF, 0);
    pt_forget();
}

static UWord range_of(ULong page) {
    UWord first, last, value;
    VG_(lookupRangeMap)(&first, &last, &value, ranges, page << PAGE_SHIFT);
    return value;
}

Bool pt_allowed(ULong page, Bool write) {
    const UInt bars = bars_of(range_of(page) >> 4);
    return !(bars & (write ? NO_WRITE : NO_READ));
}

UChar pt_first_state(ULong page, Bool write) {
    const UWord value = range_of(page);
    const UInt bars = bars_of(value >> 4);
    if ((value & 15) != UNMAPPED && (bars & (write ? NO_WRITE : NO_READ))) return UNKNOWN;
    switch (value & 15) {
    case ANONYMOUS:
        return (write ? WRITTEN : READ) | bars;
    case PRIVATE_FILE:
        return (write ? WRITTEN : COPYABLE) | bars;
    case SHARED_ANONYMOUS:
        return SHARED | bars;
    case UNMAPPED:
        return UNKNOWN;
    default:
        return OTHER | bars;
    }
}
