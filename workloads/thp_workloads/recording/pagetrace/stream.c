/* The stream to the recorder: blocks of (kind, bytes, payload) through a socket.
   SPDX-License-Identifier: GPL-2.0-or-later */
#include "pagetrace.h"

enum { STREAM_VERSION = 1, AF_UNIX_ = 1, SOCK_STREAM_ = 1, BUFFER = 1 << 18 };

extern Int VG_(safe_fd)(Int fd); /* moves a descriptor out of the guest's reach, close on exec */
extern Int VG_(write_socket)(Int fd, const void *data, Int bytes);
extern SysRes VG_(do_syscall)(UWord number, UWord, UWord, UWord, UWord, UWord, UWord, UWord, UWord);

Bool pt_recording;
static Int stream = -1;
static UChar buffer[BUFFER];
static UInt used;

static ULong touches[1024][2];
static UInt n_touches;
static ULong windows[1024][3];
static UInt n_windows;
static ULong marks[256][4];
static UInt n_marks;

static void lost(void) {
    pt_recording = False;
    if (stream >= 0) VG_(close)(stream);
    stream = -1;
}

static void write_all(const UChar *data, UInt bytes) {
    while (bytes && pt_recording) {
        const Int n = VG_(write_socket)(stream, data, bytes);
        if (n <= 0) {
            if (n == -VKI_EINTR || n == -VKI_EAGAIN) continue;
            lost();
            return;
        }
        data += n;
        bytes -= n;
    }
}

static void put(const void *data, UInt bytes) {
    if (used + bytes > BUFFER) {
        write_all(buffer, used);
        used = 0;
    }
    if (bytes > BUFFER) {
        write_all(data, bytes);
        return;
    }
    VG_(memcpy)(buffer + used, data, bytes);
    used += bytes;
}

void pt_send(UInt kind, const void *head, UInt head_bytes, const void *data, UInt bytes) {
    const UInt header[2] = {kind, head_bytes + bytes};
    if (!pt_recording) return;
    put(header, sizeof header);
    if (head_bytes) put(head, head_bytes);
    if (bytes) put(data, bytes);
}

static void send_lists(void) {
    if (n_touches) pt_send(TOUCHES, NULL, 0, touches, n_touches * sizeof touches[0]);
    if (n_windows) pt_send(WINDOWS, NULL, 0, windows, n_windows * sizeof windows[0]);
    if (n_marks) pt_send(MARKS, NULL, 0, marks, n_marks * sizeof marks[0]);
    n_touches = n_windows = n_marks = 0;
}

void pt_send_touch(ULong instruction, ULong page) {
    touches[n_touches][0] = instruction;
    touches[n_touches][1] = page;
    if (++n_touches == sizeof touches / sizeof touches[0]) send_lists();
}

void pt_send_window(ULong accesses, ULong first_misses, ULong walks) {
    windows[n_windows][0] = accesses;
    windows[n_windows][1] = first_misses;
    windows[n_windows][2] = walks;
    if (++n_windows == sizeof windows / sizeof windows[0]) send_lists();
}

void pt_send_mark(void) {
    ULong *mark = marks[n_marks];
    mark[0] = pt_instructions;
    mark[1] = pt_now();
    mark[2] = pt_virtual();
    mark[3] = pt_waited;
    if (++n_marks == sizeof marks / sizeof marks[0]) pt_flush();
}

void pt_flush(void) {
    send_lists();
    write_all(buffer, used);
    used = 0;
}

void pt_leave(void) {
    used = n_touches = n_windows = n_marks = 0;
    lost();
}

static Bool read_all(void *data, ULong bytes) {
    UChar *to = data;
    while (bytes) {
        const Int n = VG_(read)(stream, to, bytes);
        if (n == -VKI_EINTR) continue;
        if (n <= 0) return False;
        to += n;
        bytes -= n;
    }
    return True;
}

void pt_connect(Bool forked, Addr stack_pointer) {
    struct {
        UShort family;
        HChar path[108];
    } address = {AF_UNIX_, ""};
    const hello_record hello = {STREAM_VERSION, VG_(getpid)(), VG_(getppid)(),
                                stack_pointer,  forked,        pt_wide};
    welcome_record welcome;
    Addr *ranges;
    SysRes result;
    if (!pt_socket || VG_(strlen)(pt_socket) >= sizeof address.path) return;
    VG_(strcpy)(address.path, pt_socket);
    result = VG_(do_syscall)(__NR_socket, AF_UNIX_, SOCK_STREAM_, 0, 0, 0, 0, 0, 0);
    if (sr_isError(result)) return;
    stream = VG_(safe_fd)(sr_Res(result));
    result = VG_(do_syscall)(__NR_connect, stream, (UWord)&address, sizeof address, 0, 0, 0, 0, 0);
    pt_recording = !sr_isError(result);
    if (!pt_recording) {
        lost();
        return;
    }
    pt_send(HELLO, &hello, sizeof hello, NULL, 0);
    pt_flush();
    if (!read_all(&welcome, sizeof welcome) || welcome.occupied > 1 << 16) {
        lost();
        return;
    }
    ranges = VG_(malloc)("pagetrace.ranges", (welcome.occupied * 2 + 1) * sizeof *ranges);
    if (!read_all(ranges, welcome.occupied * 2 * sizeof *ranges))
        lost();
    else if (!forked)
        pt_placement_start(&welcome, ranges);
    VG_(free)(ranges);
    pt_send_mark();
}
