/* System calls: those on memory go into the stream, with what they do to the pages; fork, exec and clocks.
   SPDX-License-Identifier: GPL-2.0-or-later */
#include "pagetrace.h"

enum { SHARED_FLAG = 1, ANONYMOUS_FLAG = 0x20, HUGETLB_FLAG = 0x40000, POPULATE_FLAG = 0x8000 };
enum { DONTNEED = 4, LAZYFREE = 8, POPULATE_READ = 22, POPULATE_WRITE = 23, DONTUNMAP = 4 };
enum { CLONE_VM_ = 0x100, CLONE_VFORK_ = 0x4000 };

typedef struct {
    ULong instruction, result, args[6];
    UInt number, name_bytes;
} call_record;

ULong pt_timers;
static Bool
    forking_vm; /* the call in progress is vfork: the child uses its parent's memory until it executes */

static void send_call(const struct call *c, ULong result, const HChar *name) {
    call_record r = {pt_instructions, result, {0}, c->number, VG_(strlen)(name)};
    VG_(memcpy)(r.args, c->args, sizeof r.args);
    pt_send(CALL, &r, sizeof r, name, r.name_bytes);
    pt_instructions++; /* what the call has touched comes after it */
}

static const HChar *file_name(Int fd) {
    static HChar name[1024];
    HChar link[40];
    SSizeT n;
    VG_(sprintf)(link, "/proc/self/fd/%d", fd);
    n = VG_(readlink)(link, name, sizeof name - 1);
    name[n > 0 ? n : 0] = 0;
    return name;
}

static void mapped(const struct call *c, Addr start) {
    const ULong flags = c->args[3];
    const Bool anonymous = flags & ANONYMOUS_FLAG, shared = flags & SHARED_FLAG;
    UInt kind = anonymous ? shared ? SHARED_ANONYMOUS : ANONYMOUS : shared ? FILE_OR_DEVICE : PRIVATE_FILE;
    if (flags & HUGETLB_FLAG) kind = FILE_OR_DEVICE;
    send_call(c, start, anonymous ? "" : file_name(c->args[4]));
    pt_map(start, c->args[1], kind, c->args[2]);
    if (flags & POPULATE_FLAG && anonymous)
        pt_touch_range(start, c->args[1], !!(c->args[2] & VKI_PROT_WRITE));
}

static void broken(const struct call *c, Addr now) {
    static Addr before;
    send_call(c, now, "");
    if (!before) before = now;
    if (page_up(now) > page_up(before))
        pt_map(page_up(before), page_up(now) - page_up(before), ANONYMOUS, VKI_PROT_READ | VKI_PROT_WRITE);
    else if (page_up(now) < page_up(before))
        pt_unmap(page_up(now), page_up(before) - page_up(now));
    before = now;
}

static void advised(const struct call *c) {
    send_call(c, 0, "");
    if (c->args[2] == DONTNEED || c->args[2] == LAZYFREE) pt_zap(c->args[0], c->args[1]);
    if (c->args[2] == POPULATE_READ || c->args[2] == POPULATE_WRITE)
        pt_touch_range(c->args[0], c->args[1], c->args[2] == POPULATE_WRITE);
}

static Bool shares_memory(UInt number, UWord flags) {
    return number == __NR_vfork || (number == __NR_clone && flags & CLONE_VFORK_);
}

static void forked(const struct call *c, ULong child) {
    const ULong flags = c->number == __NR_clone ? c->args[0] : 0;
    if (flags & CLONE_VM_ && !(flags & CLONE_VFORK_)) return; /* a thread */
    if (!child) return;                                       /* this is the child */
    send_call(c, child, "");
    if (!shares_memory(c->number, flags)) pt_fork_pages();
    pt_send_mark();
    pt_flush();
}

void pt_before_call(ThreadId tid, UInt number, UWord *args, UInt count) {
    forking_vm = shares_memory(number, count ? args[0] : 0);
    if (number == __NR_execve) {
        pt_send_mark();
        pt_flush();
    }
    pt_clock_before(tid, number, args);
}

void pt_after_call(ThreadId tid, UInt number, UWord *args, UInt count, SysRes result) {
    struct call c;
    UWord six[6] = {0};
    UInt i;
    for (i = 0; i < count && i < 6; i++) six[i] = args[i];
    c = pt_guest_call(tid, number, six, &result);
    pt_clock_after(tid, number, six, result);
    if (sr_isError(result)) return;
    switch (c.number) {
    case __NR_mmap:
        mapped(&c, sr_Res(result));
        break;
    case __NR_brk:
        broken(&c, sr_Res(result));
        break;
    case __NR_munmap:
        send_call(&c, 0, "");
        pt_unmap(c.args[0], c.args[1]);
        break;
    case __NR_mprotect:
        send_call(&c, 0, "");
        pt_protect(c.args[0], c.args[1], c.args[2]);
        break;
    case __NR_mremap:
        send_call(&c, sr_Res(result), "");
        pt_move(c.args[0], c.args[1], sr_Res(result), c.args[2], !!(c.args[3] & DONTUNMAP));
        break;
    case __NR_madvise:
        advised(&c);
        break;
    case __NR_mlock:
    case __NR_munlock:
    case __NR_mlock2:
        send_call(&c, 0, "");
        break;
    case __NR_clone:
    case __NR_fork:
    case __NR_vfork:
        forked(&c, sr_Res(result));
        break;
    case __NR_setitimer:
    case __NR_timer_settime:
    case __NR_timerfd_settime:
    case __NR_alarm:
        pt_timers++;
        break;
    default:
        break;
    }
}

void pt_atfork_child(ThreadId tid) {
    const Bool was_recorded = pt_recording;
    pt_leave();
    if (!was_recorded || forking_vm) return;
    pt_fork_windows();
    pt_fork_pages();
    pt_fork_clock();
    pt_connect(True, 0);
}

void pt_written_by_kernel(CorePart part, ThreadId tid, Addr start, SizeT length) {
    pt_touch_range(start, length, True);
}

void pt_read_by_kernel(CorePart part, ThreadId tid, const HChar *what, Addr start, SizeT length) {
    pt_touch_range(start, length, False);
}
