/* Mappings go where Linux would put them, moved down by a constant: valgrind chooses other addresses by
   itself, and what allocators trim to align it would be cut elsewhere. Calls are rewritten right before they
   are made: mmap and mremap get the address that get_unmapped_area of Linux 6.18 gives (mm/mmap.c,
   mm/huge_memory.c), and brk, which valgrind lets grow to 8 MB only, becomes mmap and munmap.
   SPDX-License-Identifier: GPL-2.0-or-later */
#include "pagetrace.h"
#include <stddef.h>

enum { MAP_SHARED_ = 1, MAP_FIXED_ = 0x10, MAP_ANONYMOUS_ = 0x20, MAP_32BIT_ = 0x40, MAP_HUGETLB_ = 0x40000 };
enum { MAP_FIXED_NOREPLACE_ = 0x100000, MREMAP_MAYMOVE_ = 1, MREMAP_FIXED_ = 2, MAX_SEGMENTS = 60000 };
#define LOWEST 0x2000000000ULL /* above all that valgrind itself uses */
#define HIGHEST 0x700000000000ULL

extern SysRes VG_(do_syscall)(UWord number, UWord, UWord, UWord, UWord, UWord, UWord, UWord, UWord);
extern Bool VG_(am_notify_client_mmap)(Addr start, SizeT length, UInt protection, UInt flags, Int fd,
                                       Off64T offset);

/* -- a wider address space: valgrind 3.19 gives its guest 64 GiB -- */
extern NSegment nsegments[]
    __attribute__((weak)); /* of aspacemgr-linux.c, made global when the tool is built */
extern Int nsegments_used __attribute__((weak));
extern Addr aspacem_maxAddr __attribute__((weak));
Bool pt_wide;

void pt_widen_address_space(void) {
    Int i;
    if (!&nsegments_used || !&aspacem_maxAddr) return;
    for (i = 1; i < nsegments_used; i++) {
        NSegment *below = &nsegments[i - 1], *reserved = &nsegments[i];
        if (reserved->kind != SkResvn || below->kind != SkFree) continue;
        if (reserved->start > LOWEST || reserved->end < HIGHEST) continue;
        reserved->start = HIGHEST;
        below->end = aspacem_maxAddr = HIGHEST - 1;
        pt_wide = True;
    }
}

/* -- where Linux would map -- */
ULong pt_misplaced;
static Addr mmap_base, brk_start, brk_now;
static Addr (*occupied)[2]; /* native mappings that the guest has elsewhere: ld.so, the vDSO */
static ULong n_occupied;

void pt_placement_start(const welcome_record *welcome, const Addr *ranges) {
    ULong i;
    if (!welcome->mmap_base) return;
    mmap_base = welcome->mmap_base;
    brk_start = brk_now = welcome->brk_start;
    n_occupied = welcome->occupied;
    occupied = VG_(malloc)("pagetrace.occupied", (n_occupied + 1) * sizeof *occupied);
    for (i = 0; i < n_occupied; i++) {
        occupied[i][0] = ranges[2 * i];
        occupied[i][1] = ranges[2 * i + 1];
    }
}

static Addr starts[MAX_SEGMENTS];

static Int segments(void) {
    const Int n =
        VG_(am_get_segment_starts)(SkAnonC | SkAnonV | SkFileC | SkFileV | SkShmC, starts, MAX_SEGMENTS);
    return n < 0 ? 0 : n;
}

static Bool is_free(Addr start, ULong length) {
    Int i;
    for (i = segments() - 1; i >= 0; i--) {
        if (starts[i] >= start + length) continue;
        return VG_(am_find_nsegment)(starts[i])->end < start;
    }
    return True;
}

/* The start of the highest free range of `length` bytes below mmap_base, or 0. */
static Addr top_down(ULong length) {
    Addr top = mmap_base;
    Int i = segments() - 1;
    Long j = n_occupied - 1;
    while (top >= LOWEST + length) {
        Addr start, end;
        while (i >= 0 && starts[i] >= top) i--;
        while (j >= 0 && occupied[j][0] >= top) j--;
        if (i < 0 && j < 0) break;
        if (j < 0 || (i >= 0 && starts[i] > occupied[j][0])) {
            start = starts[i];
            end = VG_(am_find_nsegment)(start)->end + 1;
        } else {
            start = occupied[j][0];
            end = occupied[j][1];
        }
        if (end <= top && top - end >= length) return top - length;
        top = start;
    }
    return top >= LOWEST + length ? top - length : 0;
}

static Addr unmapped_area(ULong length, Bool aligned, ULong offset) {
    if (aligned) {
        const Addr found = top_down(length + PMD_SIZE);
        const ULong up = (offset - found) & (PMD_SIZE - 1);
        if (found) return found + (up ? up : PMD_SIZE);
    }
    return top_down(length);
}

static Bool is_preload(Int fd) {
    HChar link[40], name[1024];
    SSizeT n;
    VG_(sprintf)(link, "/proc/self/fd/%d", fd);
    n = VG_(readlink)(link, name, sizeof name - 1);
    if (n <= 0) return False;
    name[n] = 0;
    return VG_(strstr)(name, "/vgpreload_") != NULL;
}

/* The file system, not the length, decides whether a large mapping of a file is aligned: ask by mapping it
 * twice. */
static Bool file_is_aligned(Int fd) {
    Addr at[2];
    UInt i;
    Bool aligned = True;
    for (i = 0; i < 2; i++) {
        const SysRes r = VG_(do_syscall)(__NR_mmap, 0, PMD_SIZE + (5 + 4 * i) * PAGE, VKI_PROT_READ,
                                         VKI_MAP_PRIVATE, fd, 0, 0, 0);
        at[i] = sr_isError(r) ? 1 : sr_Res(r);
        aligned &= at[i] % PMD_SIZE == 0;
    }
    for (i = 0; i < 2; i++)
        if (at[i] != 1) VG_(do_syscall)(__NR_munmap, at[i], PMD_SIZE + (5 + 4 * i) * PAGE, 0, 0, 0, 0, 0, 0);
    return aligned;
}

/* -- rewriting -- */
static struct {
    Bool rewritten;
    struct call original;
    ULong r9;
    Addr brk;   /* the break after a call of brk */
    Addr grown; /* what a call of mremap has grown in place */
} saved[MAX_THREADS];

static void place_mmap(VexGuestAMD64State *s) {
    const ULong length = page_up(s->guest_RSI), flags = s->guest_R10;
    const Bool anonymous = flags & MAP_ANONYMOUS_;
    Bool aligned = False;
    ULong offset = 0;
    Addr at;
    if (flags & (MAP_FIXED_ | MAP_FIXED_NOREPLACE_ | MAP_32BIT_ | MAP_HUGETLB_) || !length) return;
    if (s->guest_RDI && is_free(page_up(s->guest_RDI), length)) return;
    if (!anonymous && is_preload(s->guest_R8)) return;
    if (anonymous) {
        aligned = !(flags & MAP_SHARED_) && !s->guest_RDI && length % PMD_SIZE == 0;
    } else {
        offset = s->guest_R9;
        const ULong first = (offset + PMD_SIZE - 1) & ~(PMD_SIZE - 1);
        aligned = offset + length >= first + PMD_SIZE && file_is_aligned(s->guest_R8);
    }
    at = unmapped_area(length, aligned, offset);
    if (at)
        s->guest_RDI = at;
    else
        pt_misplaced++;
}

/* Valgrind would grow all that it knows as one segment, which the kernel may have as several. */
static Bool grow_in_place(Addr start, ULong old, ULong new) {
    const NSegment *segment = VG_(am_find_nsegment)(start);
    SysRes r;
    if (!segment || segment->kind != SkAnonC) return False;
    const UInt protection = (segment->hasR ? VKI_PROT_READ : 0) | (segment->hasW ? VKI_PROT_WRITE : 0);
    r = VG_(do_syscall)(__NR_mremap, start, old, new, 0, 0, 0, 0, 0);
    if (sr_isError(r) || sr_Res(r) != start) return False;
    VG_(am_notify_client_mmap)(start + old, new - old, protection,
                               MAP_FIXED_ | MAP_ANONYMOUS_ | VKI_MAP_PRIVATE, -1, 0);
    return True;
}

static void place_mremap(VexGuestAMD64State *s, ThreadId tid) {
    const Addr start = s->guest_RDI;
    const ULong old = page_up(s->guest_RSI), new = page_up(s->guest_RDX);
    Addr at;
    if (!old || new <= old || !(s->guest_R10 & MREMAP_MAYMOVE_) || s->guest_R10 & MREMAP_FIXED_) return;
    if (is_free(start + old, new - old) && grow_in_place(start, old, new)) {
        saved[tid].grown = start;
        s->guest_RAX = __NR_getpid;
        return;
    }
    at = unmapped_area(new, new % PMD_SIZE == 0, 0);
    if (!at) return;
    s->guest_R10 |= MREMAP_FIXED_;
    s->guest_R8 = at;
}

static void place_brk(VexGuestAMD64State *s, ThreadId tid) {
    const Addr wanted = s->guest_RDI, old = page_up(brk_now), new = page_up(wanted);
    s->guest_RAX = __NR_getpid;
    saved[tid].brk = brk_now;
    if (wanted < brk_start) return;
    if (new > old && !is_free(old, new - old)) return;
    saved[tid].brk = wanted;
    if (new == old) return;
    s->guest_RAX = new > old ? __NR_mmap : __NR_munmap;
    s->guest_RDI = new > old ? old : new;
    s->guest_RSI = new > old ? new - old : old - new;
    s->guest_RDX = VKI_PROT_READ | VKI_PROT_WRITE;
    s->guest_R10 = MAP_FIXED_ | MAP_ANONYMOUS_ | VKI_MAP_PRIVATE;
    s->guest_R8 = -1ULL;
    s->guest_R9 = 0;
}

/* Valgrind keeps some descriptors for itself and refuses to set the limit to what the guest sees as its
 * maximum. */
static Bool limits_files(const VexGuestAMD64State *s) {
    if (s->guest_RAX == __NR_setrlimit) return s->guest_RDI == VKI_RLIMIT_NOFILE;
    return s->guest_RAX == __NR_prlimit64 && s->guest_RSI == VKI_RLIMIT_NOFILE && s->guest_RDX &&
           !s->guest_R10;
}

VG_REGPARM(1) void pt_place_call(VexGuestAMD64State *s) {
    const ThreadId tid = VG_(get_running_tid)() % MAX_THREADS;
    const ULong number = s->guest_RAX;
    const Bool limits = limits_files(s);
    saved[tid].rewritten =
        limits || (mmap_base && (number == __NR_mmap || number == __NR_mremap || number == __NR_brk));
    if (!saved[tid].rewritten) return;
    saved[tid].original = (struct call){
        number, {s->guest_RDI, s->guest_RSI, s->guest_RDX, s->guest_R10, s->guest_R8, s->guest_R9}};
    if (number == __NR_mmap) place_mmap(s);
    saved[tid].grown = 0;
    if (limits) s->guest_RAX = __NR_getpid;
    if (number == __NR_mremap) place_mremap(s, tid);
    if (number == __NR_brk) place_brk(s, tid);
}

static void set_register(ThreadId tid, Int offset, ULong value) {
    VG_(set_shadow_regs_area)(tid, 0, offset, sizeof value, (const UChar *)&value);
}

void pt_set_result(ThreadId tid, ULong value) {
    set_register(tid, offsetof(VexGuestAMD64State, guest_RAX), value);
}

struct call pt_guest_call(ThreadId tid, UInt number, const UWord *args, SysRes *result) {
    static const Int registers[] = {
        offsetof(VexGuestAMD64State, guest_RDI), offsetof(VexGuestAMD64State, guest_RSI),
        offsetof(VexGuestAMD64State, guest_RDX), offsetof(VexGuestAMD64State, guest_R10),
        offsetof(VexGuestAMD64State, guest_R8),  offsetof(VexGuestAMD64State, guest_R9)};
    struct call call = {number, {args[0], args[1], args[2], args[3], args[4], args[5]}};
    UInt i;
    if (!saved[tid % MAX_THREADS].rewritten) return call;
    saved[tid % MAX_THREADS].rewritten = False;
    call = saved[tid % MAX_THREADS].original;
    for (i = 0; i < 6; i++) set_register(tid, registers[i], call.args[i]); /* the kernel keeps them */
    if (saved[tid % MAX_THREADS].grown) {
        result->_isError = False;
        result->_val = saved[tid % MAX_THREADS].grown;
        pt_set_result(tid, result->_val);
    }
    if (call.number == __NR_setrlimit || call.number == __NR_prlimit64) pt_set_result(tid, 0);
    if (call.number != __NR_brk) return call;
    if (!sr_isError(*result)) brk_now = saved[tid % MAX_THREADS].brk;
    result->_isError = False;
    result->_val = brk_now;
    pt_set_result(tid, brk_now);
    return call;
}
