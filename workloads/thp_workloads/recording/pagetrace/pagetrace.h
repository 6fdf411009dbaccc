/* pagetrace: a valgrind tool that tells what a program does to memory, page by page.

   It sends first touches, system calls on memory and, of sampled windows of time, all accesses merged by
   page, as a binary stream through a socket. What the records mean is said in ../stream.py, which reads them.

   Copyright (C) the authors of thp_env.

   This tool links to valgrind and is, unlike the rest of thp_env, free software under the GNU General Public
   License, version 2 or (at your option) any later version. It comes without any warranty.
   SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef PAGETRACE_H
#define PAGETRACE_H
#include "libvex_guest_amd64.h"
#include "pub_tool_aspacemgr.h"
#include "pub_tool_basics.h"
#include "pub_tool_libcassert.h"
#include "pub_tool_libcbase.h"
#include "pub_tool_libcfile.h"
#include "pub_tool_libcprint.h"
#include "pub_tool_libcproc.h"
#include "pub_tool_machine.h"
#include "pub_tool_mallocfree.h"
#include "pub_tool_options.h"
#include "pub_tool_rangemap.h"
#include "pub_tool_threadstate.h"
#include "pub_tool_tooliface.h"
#include "pub_tool_vki.h"
#include "pub_tool_vkiscnums.h"

enum { PAGE_SHIFT = 12, PAGE = 1 << PAGE_SHIFT, MAX_THREADS = 4096 };
enum { PMD_PAGES = 512, WARM_PAGES = 2048 /* used last before a window: they warm the TLB up */ };
#define PMD_SIZE ((ULong)PMD_PAGES << PAGE_SHIFT)

static inline ULong page_up(ULong address) { return (address + PAGE - 1) & ~(ULong)(PAGE - 1); }

/* -- main.c: the options -- */
extern const HChar *pt_socket;
extern ULong pt_window, pt_budget, pt_depth, pt_ps, pt_sample;

/* -- instrument.c -- */
extern ULong
    pt_instructions; /* executed by the guest; up to date at the end of each block and before each exit */
extern ULong pt_accesses; /* loads and stores */
IRSB *pt_instrument(VgCallbackClosure *closure, IRSB *in, const VexGuestLayout *layout,
                    const VexGuestExtents *extents, const VexArchInfo *arch, IRType guest_word,
                    IRType host_word);

/* -- stream.c -- */
enum record_kind { HELLO = 1, TOUCHES, RUNS, CALL, WINDOWS, SAMPLE, MARKS, END };
typedef struct {
    ULong version, pid, parent, stack_pointer, forked, wide;
} hello_record;
typedef struct {
    ULong mmap_base, brk_start; /* addresses of the guest */
    ULong occupied; /* so many ranges (start, end) follow: where a native run has something mapped */
} welcome_record;
extern Bool pt_recording; /* the other end listens */
void pt_connect(Bool forked, Addr stack_pointer);
void pt_leave(void); /* forget the stream without sending what is buffered */
void pt_send(UInt kind, const void *head, UInt head_bytes, const void *data, UInt bytes);
void pt_send_touch(ULong instruction, ULong page);
void pt_send_window(ULong accesses, ULong first_misses, ULong walks);
void pt_send_mark(void); /* where the guest is when */
void pt_flush(void);

/* -- pages.c: what is known of each page -- */
enum page_state {
    UNKNOWN,  /* not touched since it was mapped */
    OTHER,    /* a file's page: counted, not recorded */
    COPYABLE, /* a page of a private file mapping, read so far: a write makes an anonymous copy */
    READ,     /* anonymous, read so far: maps the zero page, or is shared with a child after fork */
    WRITTEN,  /* anonymous, written */
    SHARED,   /* shared anonymous memory, touched */
    STATE_BITS = 0x0f,
    NO_WRITE = 0x40,
    NO_READ = 0x80
};
enum range_kind { UNMAPPED, ANONYMOUS, PRIVATE_FILE, SHARED_ANONYMOUS, FILE_OR_DEVICE };
UChar *pt_state(ULong page);
void pt_pages_init(void);
void pt_map(Addr start, ULong length, UInt kind, UInt protection);
void pt_unmap(Addr start, ULong length);
void pt_move(Addr from, ULong old_length, Addr to, ULong new_length, Bool keep);
void pt_protect(Addr start, ULong length, UInt protection);
void pt_zap(Addr start, ULong length);
void pt_fork_pages(void);
/* The state that the first access to a page brings it to; OTHER if it is none of ours; UNKNOWN if it is not
 * allowed. */
UChar pt_first_state(ULong page, Bool write);
Bool pt_allowed(ULong page, Bool write);

/* -- access.c: first touches, the model TLB, sampled windows -- */
extern ULong pt_last,
    pt_last_written; /* first address of the page accessed last, and if it may be written unseen */
extern ULong pt_anonymous, pt_other, pt_other_pages, pt_shared_pages, pt_level;
extern ULong pt_first_misses, pt_walks;
VG_REGPARM(2) void pt_access(Addr address, HWord what);
void pt_forget(void);                                      /* translations have changed */
void pt_touch_range(Addr start, ULong length, Bool write); /* by the kernel */
void pt_finish_windows(void);
void pt_fork_windows(void);

/* -- calls.c: system calls -- */
extern ULong pt_timers;
void pt_before_call(ThreadId tid, UInt number, UWord *args, UInt count);
void pt_after_call(ThreadId tid, UInt number, UWord *args, UInt count, SysRes result);
void pt_atfork_child(ThreadId tid);
void pt_written_by_kernel(CorePart part, ThreadId tid, Addr start, SizeT length);
void pt_read_by_kernel(CorePart part, ThreadId tid, const HChar *what, Addr start, SizeT length);

/* -- placement.c: mappings go where Linux would put them -- */
struct call {
    ULong number, args[6]; /* as the guest made it */
};
VG_REGPARM(1) void pt_place_call(VexGuestAMD64State *state); /* right before a system call */
struct call pt_guest_call(ThreadId tid, UInt number, const UWord *args, SysRes *result); /* right after it */
void pt_set_result(ThreadId tid, ULong value);
void pt_placement_start(const welcome_record *welcome, const Addr *ranges);
void pt_widen_address_space(void);
extern Bool pt_wide;
extern ULong pt_misplaced;

/* -- clock.c: the guest's own time -- */
ULong pt_now(void);     /* CLOCK_MONOTONIC, ns */
ULong pt_virtual(void); /* ns since the start: instructions and waiting */
extern ULong pt_waited;
void pt_clock_start(void);
void pt_clock_before(ThreadId tid, UInt number, const UWord *args);
void pt_clock_after(ThreadId tid, UInt number, const UWord *args, SysRes result);
void pt_clock_thread(Int change);
void pt_fork_clock(void);
VG_REGPARM(0) ULong pt_tsc(void);
VG_REGPARM(1) void pt_tscp(VexGuestAMD64State *state);

#endif
