/* The guest's own time: what it reads from clocks follows the instructions that it executed and the time that
   all of its threads waited, so that decay, timeouts and collectors act as in a native run.
   SPDX-License-Identifier: GPL-2.0-or-later */
#include "pagetrace.h"

enum { CLOCKS = 8, PROCESS_CPU = 2, THREAD_CPU = 3, FLUSHED_EVERY = 50000000 /* ns */ };

ULong pt_waited;
static ULong before_fork, waiting_since, flushed; /* ns */
static Int threads, waiting;
static Bool is_waiting[MAX_THREADS];
static ULong delayed[MAX_THREADS]; /* `run_delay` when the thread began to wait */

static ULong executed(void) { return before_fork + pt_instructions * pt_ps / 1000; }

ULong pt_now(void) {
    struct vki_timespec t;
    VG_(clock_gettime)(&t, VKI_CLOCK_MONOTONIC);
    return (ULong)t.tv_sec * 1000000000ULL + t.tv_nsec;
}

ULong pt_virtual(void) { return executed() + pt_waited; }

void pt_clock_thread(Int change) { threads += change; }

/* -- waiting: real time passes while every thread is in a call that may block -- */
static Bool may_block(UInt number) {
    switch (number) {
    case __NR_read:
    case __NR_write:
    case __NR_readv:
    case __NR_writev:
    case __NR_pread64:
    case __NR_pwrite64:
    case __NR_poll:
    case __NR_ppoll:
    case __NR_select:
    case __NR_pselect6:
    case __NR_epoll_wait:
    case __NR_epoll_pwait:
    case __NR_nanosleep:
    case __NR_clock_nanosleep:
    case __NR_pause:
    case __NR_futex:
    case __NR_wait4:
    case __NR_waitid:
    case __NR_accept:
    case __NR_accept4:
    case __NR_connect:
    case __NR_recvfrom:
    case __NR_recvmsg:
    case __NR_sendto:
    case __NR_sendmsg:
    case __NR_rt_sigtimedwait:
    case __NR_rt_sigsuspend:
    case __NR_flock:
    case __NR_fsync:
    case __NR_fdatasync:
    case __NR_msgrcv:
    case __NR_semop:
    case __NR_semtimedop:
        return True;
    default:
        return False;
    }
}

/* How long the calling thread could have run but had no CPU, in ns (Documentation/scheduler/sched-stats.rst):
   on a busy machine that is no waiting of the program's. */
static ULong run_delay(void) {
    HChar text[64], *at = text;
    const SysRes file = VG_(open)("/proc/thread-self/schedstat", VKI_O_RDONLY, 0);
    Int n;
    if (sr_isError(file)) return 0;
    n = VG_(read)(sr_Res(file), text, sizeof text - 1);
    VG_(close)(sr_Res(file));
    if (n <= 0) return 0;
    text[n] = 0;
    VG_(strtoull10)(text, &at);
    return VG_(strtoull10)(at, NULL);
}

static void stop_waiting(ThreadId tid) {
    if (!is_waiting[tid % MAX_THREADS]) return;
    if (waiting >= threads) {
        const ULong real = pt_now() - waiting_since, delay = run_delay() - delayed[tid % MAX_THREADS];
        const ULong waited = delay < real ? real - delay : 0;
        pt_waited += waited;
        if (waited > 100000) pt_send_mark();
    }
    is_waiting[tid % MAX_THREADS] = False;
    waiting--;
}

void pt_clock_before(ThreadId tid, UInt number, const UWord *args) {
    stop_waiting(tid); /* of a call that a signal broke off */
    if (!may_block(number)) return;
    is_waiting[tid % MAX_THREADS] = True;
    delayed[tid % MAX_THREADS] = run_delay();
    if (++waiting < threads) return;
    waiting_since = pt_now();
    if (waiting_since - flushed < FLUSHED_EVERY) return;
    flushed = waiting_since;
    pt_send_mark();
    pt_flush();
}

/* -- readings: all clocks are right at the start and go on together -- */
static ULong start[CLOCKS]; /* each clock's reading at time 0 of pt_virtual */

static ULong own_time(UInt clock) {
    return clock == PROCESS_CPU || clock == THREAD_CPU ? executed() : start[clock] + pt_virtual();
}

void pt_clock_after(ThreadId tid, UInt number, const UWord *args, SysRes result) {
    stop_waiting(tid);
    if (sr_isError(result)) return;
    if (number == __NR_clock_gettime && args[1] && args[0] < CLOCKS) {
        struct vki_timespec *t = (struct vki_timespec *)args[1];
        const ULong ns = own_time(args[0]);
        t->tv_sec = ns / 1000000000ULL;
        t->tv_nsec = ns % 1000000000ULL;
    } else if (number == __NR_gettimeofday && args[0]) {
        struct vki_timeval *t = (struct vki_timeval *)args[0];
        const ULong ns = own_time(0);
        t->tv_sec = ns / 1000000000ULL;
        t->tv_usec = ns % 1000000000ULL / 1000;
    } else if (number == __NR_time) {
        const UWord seconds = own_time(0) / 1000000000ULL;
        if (args[0]) *(UWord *)args[0] = seconds;
        pt_set_result(tid, seconds);
    }
}

static ULong cycles(void) {
    UInt low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (ULong)high << 32 | low;
}

static ULong first_cycles, first_ns;

void pt_clock_start(void) {
    UInt clock;
    for (clock = 0; clock < CLOCKS; clock++) {
        struct vki_timespec t = {0, 0};
        VG_(clock_gettime)(&t, clock);
        start[clock] = (ULong)t.tv_sec * 1000000000ULL + t.tv_nsec;
    }
    first_cycles = cycles();
    first_ns = pt_now();
}

VG_REGPARM(0) ULong pt_tsc(void) {
    static ULong per_1024_ns, base;
    if (!per_1024_ns) {
        const ULong ns = pt_now() - first_ns + 1;
        per_1024_ns = (cycles() - first_cycles) * 1024 / ns + 1;
        base = cycles() - pt_virtual() * per_1024_ns / 1024;
    }
    return base + pt_virtual() * per_1024_ns / 1024;
}

VG_REGPARM(1) void pt_tscp(VexGuestAMD64State *state) {
    const ULong now = pt_tsc();
    state->guest_RAX = now & 0xffffffff;
    state->guest_RDX = now >> 32;
    state->guest_RCX = 0;
}

void pt_fork_clock(void) {
    before_fork = executed();
    threads = 1;
    waiting = 0;
    VG_(memset)(is_waiting, 0, sizeof is_waiting);
}
