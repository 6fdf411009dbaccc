/* Options, and the life of the tool.
   SPDX-License-Identifier: GPL-2.0-or-later */
#include "pagetrace.h"

const HChar *pt_socket;
ULong pt_window = 1 << 15, pt_budget = 600000, pt_depth = 4, pt_ps = 300, pt_sample = 1 << 24;
static Bool started;

static Bool option(const HChar *arg) {
    if VG_STR_CLO (arg, "--socket", pt_socket) {
    } else if VG_BINT_CLO (arg, "--window", pt_window, 1, 1LL << 40) {
    } else if VG_BINT_CLO (arg, "--budget", pt_budget, 0, 1LL << 40) {
    } else if VG_BINT_CLO (arg, "--depth", pt_depth, 1, 4) {
    } else if VG_BINT_CLO (arg, "--ps", pt_ps, 1, 1 << 30) {
    } else if VG_BINT_CLO (arg, "--sample", pt_sample, 1, 1LL << 40) {
    } else
        return False;
    return True;
}

static void usage(void) {
    VG_(printf)("    --socket=PATH    where the recorder listens\n"
                "    --window=N       instructions in a window\n"
                "    --budget=N       runs of accesses to keep; 0: all\n"
                "    --depth=N        accesses to one of the last N pages are merged\n"
                "    --ps=N           picoseconds an instruction takes\n"
                "    --sample=N       instructions between two looks at what pages hold\n");
}

static void debug_usage(void) {}

static void at_startup(Addr start, SizeT length, Bool r, Bool w, Bool x, ULong unused) {
    const NSegment *segment = VG_(am_find_nsegment)(start);
    const UInt protection = (r ? VKI_PROT_READ : 0) | (w ? VKI_PROT_WRITE : 0) | (x ? VKI_PROT_EXEC : 0);
    const Bool file = segment && segment->kind == SkFileC;
    pt_map(start, length, file ? PRIVATE_FILE : ANONYMOUS, protection);
}

/* The stack grows down into what is reserved for it; what lies above the stack pointer is there already. */
static void map_stack(Addr stack_pointer) {
    const NSegment *stack = VG_(am_find_nsegment)(stack_pointer), *below;
    ULong page;
    if (!stack) return;
    below = VG_(am_find_nsegment)(stack->start - 1);
    pt_map(below && below->kind == SkResvn ? below->start : stack->start,
           stack->end + 1 - (below && below->kind == SkResvn ? below->start : stack->start), ANONYMOUS,
           VKI_PROT_READ | VKI_PROT_WRITE);
    for (page = stack_pointer >> PAGE_SHIFT; page <= stack->end >> PAGE_SHIFT; page++)
        *pt_state(page) = WRITTEN;
}

static void at_client_code(ThreadId tid, ULong blocks) {
    if (started) return;
    started = True;
    map_stack(VG_(get_SP)(tid));
    pt_connect(False, VG_(get_SP)(tid));
    pt_clock_start();
}

static void thread_begins(ThreadId tid, ThreadId child) { pt_clock_thread(1); }
static void thread_ends(ThreadId tid) { pt_clock_thread(-1); }

static void after_options(void) {
    const ULong least = 4 * (pt_window + WARM_PAGES); /* what a few windows can hold */
    if (pt_budget && pt_budget < least) pt_budget = least;
}

static void at_end(Int status) {
    pt_finish_windows();
    {
        const ULong end[] = {pt_instructions, pt_anonymous,    pt_other, pt_first_misses, pt_walks,
                             pt_other_pages,  pt_shared_pages, pt_level, pt_timers,       pt_misplaced};
        pt_send_mark();
        pt_send(END, NULL, 0, end, sizeof end);
    }
    pt_flush();
}

static void before_options(void) {
    VG_(details_name)("pagetrace");
    VG_(details_version)("1");
    VG_(details_description)("tells what a program does to memory, page by page");
    VG_(details_copyright_author)("Copyright (C) the authors of thp_env. GNU GPL, version 2 or later.");
    VG_(details_bug_reports_to)("the authors of thp_env");
    VG_(details_avg_translation_sizeB)(400);
    VG_(basic_tool_funcs)(after_options, pt_instrument, at_end);
    VG_(needs_command_line_options)(option, usage, debug_usage);
    VG_(needs_syscall_wrapper)(pt_before_call, pt_after_call);
    VG_(track_new_mem_startup)(at_startup);
    VG_(track_post_mem_write)(pt_written_by_kernel);
    VG_(track_pre_mem_read)(pt_read_by_kernel);
    VG_(track_start_client_code)(at_client_code);
    VG_(track_pre_thread_ll_create)(thread_begins);
    VG_(track_pre_thread_ll_exit)(thread_ends);
    VG_(atfork)(NULL, NULL, pt_atfork_child);
    pt_pages_init();
    pt_widen_address_space();
}

VG_DETERMINE_INTERFACE_VERSION(before_options)
