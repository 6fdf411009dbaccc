/* First touches, the model TLB and the sampled windows: everything that happens at an access.
   SPDX-License-Identifier: GPL-2.0-or-later */
#include "pagetrace.h"
#include "tlb_model.h"

#define NOWHERE (~0ULL << PAGE_SHIFT)
#define WRITE_BIT (1ULL << 63)

ULong pt_last = NOWHERE, pt_last_written = NOWHERE;
ULong pt_anonymous, pt_other, pt_other_pages, pt_shared_pages, pt_level;
ULong pt_first_misses, pt_walks;

/* -- the model TLB, and which pages were used last -- */
static ULong first_level[FIRST_SETS * FIRST_WAYS], second_level[SECOND_SETS * SECOND_WAYS];

/* More pages than the TLB of any core translates; a set holds those used last, in no order but by their
 * stamps. */
enum { RECENT_SETS = 512, RECENT_WAYS = 8 };
static struct {
    ULong page, stamp;
} recent[RECENT_SETS][RECENT_WAYS];
static ULong stamp;

static void remember(ULong page) {
    UInt way, oldest = 0;
    for (way = 0; way < RECENT_WAYS; way++) {
        if (recent[page % RECENT_SETS][way].page == page) {
            oldest = way;
            break;
        }
        if (recent[page % RECENT_SETS][way].stamp < recent[page % RECENT_SETS][oldest].stamp) oldest = way;
    }
    recent[page % RECENT_SETS][oldest].page = page;
    recent[page % RECENT_SETS][oldest].stamp = ++stamp;
}

static inline void translate(ULong page) {
    if (first_level[page % FIRST_SETS * FIRST_WAYS] == page + 1) return; /* used last of its set */
    if (tlb_hit(first_level, FIRST_SETS, FIRST_WAYS, page)) return;
    pt_first_misses++;
    if (!tlb_hit(second_level, SECOND_SETS, SECOND_WAYS, page)) pt_walks++;
    remember(page);
}

/* -- sampled windows -- */
typedef struct {
    ULong instruction, page;
    UInt count, written;
} run_record;

/* A run takes in accesses to its page while the page is among the last few accessed (so the translation
   surely sits in a 4-way first level) and the run is among the last MAX_AGE (so that a replay refreshes its
   place in the LRU order soon enough). */
enum { DEPTH = 4, MAX_AGE = 2 };
static struct {
    ULong page;
    UInt run;
} last_runs[DEPTH];
static UInt n_last_runs;

static run_record *runs; /* of the window that is being recorded */
static UInt n_runs, n_warm, room;
static Bool active, current_recorded, current_run;
static ULong window_index, next_window, next_sample, sample_period, counted_accesses;

static struct {
    ULong index;
    UInt runs;
} *kept; /* the windows recorded so far */
static UInt n_kept, kept_room;
static ULong kept_runs;

static void push_run(ULong instruction, ULong page, UInt count, Bool write) {
    if (n_runs == room) {
        room = room ? 2 * room : 1 << 15;
        runs = VG_(realloc)("pagetrace.runs", runs, room * sizeof *runs);
    }
    runs[n_runs++] = (run_record){instruction, page, count, write};
}

static Int by_stamp(const void *a, const void *b) {
    const ULong x = *(const ULong *)a, y = *(const ULong *)b;
    return x < y ? -1 : x > y;
}

static void warm_page(ULong instruction, ULong page) {
    const UChar state = *pt_state(page);
    if ((state & STATE_BITS) >= READ && !(state & NO_READ)) push_run(instruction, page, 0, False);
}

/* The pages used last, the latest at the end: in the order in which they missed the first level, then what
   that holds, since its hits leave no stamp. */
static void warm(ULong instruction) {
    static ULong pages[RECENT_SETS * RECENT_WAYS][2];
    UInt set, way, n = 0, i;
    for (set = 0; set < RECENT_SETS; set++)
        for (way = 0; way < RECENT_WAYS; way++)
            if (recent[set][way].stamp) {
                pages[n][0] = recent[set][way].stamp;
                pages[n++][1] = recent[set][way].page;
            }
    VG_(ssort)(pages, n, sizeof pages[0], by_stamp);
    for (i = n > WARM_PAGES ? n - WARM_PAGES : 0; i < n; i++) warm_page(instruction, pages[i][1]);
    for (way = FIRST_WAYS; way-- > 0;)
        for (set = 0; set < FIRST_SETS; set++)
            if (first_level[set * FIRST_WAYS + way])
                warm_page(instruction, first_level[set * FIRST_WAYS + way] - 1);
    n_warm = n_runs;
}

static void thin(void) {
    while (pt_budget && kept_runs >= pt_budget && pt_level < 40) {
        UInt from, to = 0;
        pt_level++;
        kept_runs = 0;
        for (from = 0; from < n_kept; from++)
            if (window_rank(kept[from].index) >= pt_level) {
                kept_runs += kept[from].runs;
                kept[to++] = kept[from];
            }
        n_kept = to;
    }
}

static void end_window(void) {
    const ULong head[3] = {window_index, window_rank(window_index), pt_level};
    UInt i;
    if (!active || !n_runs) return;
    for (i = n_warm; i < n_runs; i++) /* of an access over two pages, one counts for both */
        if (!runs[i].count) runs[i].count = 1;
    if (n_kept == kept_room) {
        kept_room = kept_room ? 2 * kept_room : 1 << 10;
        kept = VG_(realloc)("pagetrace.kept", kept, kept_room * sizeof *kept);
    }
    kept[n_kept].index = window_index;
    kept[n_kept++].runs = n_runs;
    kept_runs += n_runs;
    pt_send(RUNS, head, sizeof head, runs, n_runs * sizeof *runs);
    n_runs = n_warm = 0;
    thin();
}

static void forget_runs(void) {
    n_last_runs = 0;
    current_run = False;
}

/* -- what pages hold -- */
enum { WRITTEN_PAGES = 1 << 15, SAMPLES = 16 };
static ULong written[WRITTEN_PAGES]; /* pages at random; those of long ago are overwritten in time */
static ULong n_written;

static ULong draw(void) {
    static ULong x = 1;
    x = x * 6364136223846793005ULL + 1442695040888963407ULL;
    return x >> 33;
}

static void sample_content(ULong instruction) {
    UInt tries, sent = 0;
    for (tries = 0; tries < 4 * SAMPLES && sent < SAMPLES && n_written; tries++) {
        const ULong head[2] = {instruction,
                               written[draw() % (n_written < WRITTEN_PAGES ? n_written : WRITTEN_PAGES)]};
        if ((*pt_state(head[1]) & (STATE_BITS | NO_READ)) != WRITTEN) continue;
        if (!VG_(am_is_valid_for_client)(head[1] << PAGE_SHIFT, PAGE, VKI_PROT_READ)) continue;
        pt_send(SAMPLE, head, sizeof head, (const void *)(head[1] << PAGE_SHIFT), PAGE);
        sent++;
    }
}

static void credit(ULong accesses) {
    const ULong n = accesses - counted_accesses;
    counted_accesses = accesses;
    if (!current_recorded) {
        pt_other += n;
        return;
    }
    pt_anonymous += n;
    if (current_run) runs[last_runs[0].run].count += n;
}

static void cross_windows(ULong instruction) {
    end_window();
    while (instruction >= next_window) {
        window_index = next_window / pt_window;
        next_window += pt_window;
        pt_send_window(pt_anonymous, pt_first_misses, pt_walks);
    }
    active = pt_recording && window_rank(window_index) >= pt_level;
    forget_runs();
    if (active && pt_budget) warm(window_index * pt_window);
    if (instruction >= next_sample) {
        sample_content(instruction);
        if (!sample_period) sample_period = pt_sample;
        if (next_sample > sample_period * 4096) sample_period *= 2;
        next_sample = instruction + sample_period;
        pt_send_mark();
        pt_flush();
    }
}

static void record_run(ULong instruction, ULong page, Bool write, Bool faults) {
    UInt i = 0, run;
    Bool found;
    while (i < n_last_runs && last_runs[i].page != page) i++;
    found = i < n_last_runs;
    if (found && !faults && n_runs - last_runs[i].run <= MAX_AGE) {
        run = last_runs[i].run;
        runs[run].written |= write;
    } else {
        run = n_runs;
        push_run(instruction, page, 0, write);
        if (!found) {
            if (n_last_runs < pt_depth) n_last_runs++;
            i = n_last_runs - 1;
        }
    }
    for (; i > 0; i--) last_runs[i] = last_runs[i - 1];
    last_runs[0].page = page;
    last_runs[0].run = run;
    current_run = True;
}

/* -- accesses -- */
/* Pages that may be accessed without a look at their state. */
enum { KNOWN = 256 };
static struct {
    ULong page;
    ULong writable;
} known[KNOWN];

static void know(ULong page, UChar state) {
    known[page % KNOWN].page = page;
    known[page % KNOWN].writable = (state & STATE_BITS) >= WRITTEN && !(state & NO_WRITE);
}

static UChar first_touch(ULong page, Bool write, ULong instruction, UChar *state) {
    const UChar before = *state & STATE_BITS;
    if ((*state & (write ? NO_WRITE : NO_READ)) && !pt_allowed(page, write)) return UNKNOWN;
    if (before == UNKNOWN) {
        *state = pt_first_state(page, write);
        pt_other_pages += (*state & STATE_BITS) == OTHER;
        pt_shared_pages += (*state & STATE_BITS) == SHARED;
    } else {
        *state = (*state & ~STATE_BITS) | (write ? WRITTEN : before);
    }
    if ((*state & STATE_BITS) >= READ) pt_send_touch(instruction, page | (write ? WRITE_BIT : 0));
    if (write) written[n_written++ < WRITTEN_PAGES ? n_written - 1 : draw() % WRITTEN_PAGES] = page;
    return *state & STATE_BITS;
}

/* An access to a page that is not the one of the last access, or the first write to it. */
static void access_page(ULong page, Bool write, ULong instruction, ULong accesses) {
    UChar *state = pt_state(page);
    UChar now = *state;
    Bool faults = False;
    credit(accesses);
    if (instruction >= next_window) cross_windows(instruction);
    current_run = current_recorded = False;
    pt_last = page << PAGE_SHIFT;
    pt_last_written = NOWHERE;
    if ((now & STATE_BITS) != OTHER && (now & STATE_BITS) < (write ? WRITTEN : COPYABLE)) {
        now = first_touch(page, write, instruction, state);
        faults = now >= READ;
    } else if (now & (write ? NO_WRITE : NO_READ)) {
        now = UNKNOWN; /* the guest gets a signal */
    }
    now &= STATE_BITS;
    if (now == OTHER) pt_last_written = pt_last;
    if (now == UNKNOWN) pt_last = NOWHERE;
    if (now < READ) return;
    current_recorded = True;
    translate(page);
    if (active) record_run(instruction, page, write, faults);
    if (write || (now >= WRITTEN && !active && !(*state & NO_WRITE))) pt_last_written = pt_last;
    know(page, *state);
}

VG_REGPARM(2) void pt_access(Addr address, HWord what) {
    const ULong instruction = pt_instructions + (what >> 1 & 0x7fff),
                accesses = pt_accesses + (what >> 16 & 0xffff);
    const ULong first = address >> PAGE_SHIFT, last = (address + (what >> 32) - 1) >> PAGE_SHIFT;
    /* Nearly all accesses: outside the sampled windows, from one page that is known to another. */
    if (known[first % KNOWN].page == first && known[first % KNOWN].writable >= (what & 1) && first == last &&
        !active && current_recorded && instruction < next_window) {
        pt_last = first << PAGE_SHIFT;
        pt_last_written = known[first % KNOWN].writable ? pt_last : NOWHERE;
        translate(first);
        return;
    }
    access_page(first, what & 1, instruction, accesses);
    if (last != first) access_page(last, what & 1, instruction, accesses);
}

void pt_forget(void) {
    credit(pt_accesses);
    current_recorded = False;
    forget_runs();
    pt_last = pt_last_written = NOWHERE;
    VG_(memset)(known, 0xff, sizeof known);
}

void pt_touch_range(Addr start, ULong length, Bool write) {
    ULong page = start >> PAGE_SHIFT;
    const ULong end = page_up(start + length) >> PAGE_SHIFT;
    if (!length || length >> 47 || !pt_recording) return;
    credit(pt_accesses);
    if (pt_instructions >= next_window) cross_windows(pt_instructions);
    for (; page < end; page++) {
        UChar *state = pt_state(page);
        if ((*state & STATE_BITS) == OTHER || (*state & STATE_BITS) >= (write ? WRITTEN : COPYABLE)) continue;
        if (first_touch(page, write, pt_instructions, state) < READ) continue;
        pt_anonymous++; /* the kernel uses the guest's translations */
        translate(page);
        if (active) push_run(pt_instructions, page, 1, write);
    }
}

void pt_finish_windows(void) {
    credit(pt_accesses);
    if (pt_instructions >= next_window) cross_windows(pt_instructions);
    end_window();
    active = False;
}

/* A child counts from its fork on. */
void pt_fork_windows(void) {
    pt_instructions = pt_accesses = counted_accesses = pt_anonymous = pt_other = 0;
    pt_first_misses = pt_walks = pt_level = kept_runs = next_window = next_sample = sample_period = 0;
    pt_other_pages = pt_shared_pages = 0;
    n_runs = n_warm = n_kept = 0;
    active = False;
    pt_forget();
}
