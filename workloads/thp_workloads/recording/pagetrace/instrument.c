/* Counts instructions and accesses inline, and calls pt_access only where an access leaves the page of the
   last one. SPDX-License-Identifier: GPL-2.0-or-later */
#include "pagetrace.h"
#include <stddef.h>

ULong pt_instructions, pt_accesses;

typedef struct {
    IRSB *out;
    UInt instructions, accesses; /* not yet added to the counters */
} block;

static IRExpr *word(ULong x) { return IRExpr_Const(IRConst_U64(x)); }

static IRExpr *assign(block *b, IRType type, IRExpr *e) {
    IRTemp t = newIRTemp(b->out->tyenv, type);
    addStmtToIRSB(b->out, IRStmt_WrTmp(t, e));
    return IRExpr_RdTmp(t);
}

static void add(block *b, ULong *counter, UInt n) {
    IRExpr *old = assign(b, Ity_I64, IRExpr_Load(Iend_LE, Ity_I64, word((HWord)counter)));
    addStmtToIRSB(b->out, IRStmt_Store(Iend_LE, word((HWord)counter),
                                       assign(b, Ity_I64, IRExpr_Binop(Iop_Add64, old, word(n)))));
}

static void count(block *b) {
    if (b->instructions) add(b, &pt_instructions, b->instructions);
    if (b->accesses) add(b, &pt_accesses, b->accesses);
    b->instructions = b->accesses = 0;
}

/* An access of `size` bytes at `address`, if `guard` (NULL: always). */
static void access(block *b, IRExpr *address, Int size, Bool write, IRExpr *guard) {
    const ULong what = (ULong)write | (ULong)(b->instructions & 0x7fff) << 1 |
                       (ULong)(b->accesses & 0xffff) << 16 | (ULong)size << 32;
    IRDirty *call = unsafeIRDirty_0_N(2, "pt_access", VG_(fnptr_to_fnentry)(pt_access),
                                      mkIRExprVec_2(address, word(what)));
    if (!guard) { /* address - last > 4096 - size, unsigned: not wholly in the page accessed last */
        IRExpr *last = assign(
            b, Ity_I64, IRExpr_Load(Iend_LE, Ity_I64, word((HWord)(write ? &pt_last_written : &pt_last))));
        IRExpr *distance = assign(b, Ity_I64, IRExpr_Binop(Iop_Sub64, address, last));
        guard = assign(b, Ity_I1, IRExpr_Binop(Iop_CmpLT64U, word(PAGE - size), distance));
    }
    call->guard = guard;
    addStmtToIRSB(b->out, IRStmt_Dirty(call));
    b->accesses++;
}

/* `rep movsb` and its like: each round is an instruction to VEX, but the hardware moves a line in a cycle. */
static Bool is_repeated_string(Addr at, UInt length) {
    const UChar *code = (const UChar *)at;
    UInt i = 1;
    if (length < 2 || (code[0] != 0xf3 && code[0] != 0xf2)) return False;
    if (length > 2 && (code[1] & 0xf0) == 0x40) i = 2;
    return (code[i] >= 0xa4 && code[i] <= 0xa7) || (code[i] >= 0xaa && code[i] <= 0xaf);
}

/* Let the guest read the time that is its own. */
static void own_clock(IRDirty *call) {
    if (VG_STREQ(call->cee->name, "amd64g_dirtyhelper_RDTSC"))
        call->cee = mkIRCallee(0, "pt_tsc", VG_(fnptr_to_fnentry)(pt_tsc));
    else if (VG_STREQ(call->cee->name, "amd64g_dirtyhelper_RDTSCP"))
        call->cee = mkIRCallee(0, "pt_tscp", VG_(fnptr_to_fnentry)(pt_tscp));
}

static void dirty(block *b, IRDirty *call) {
    own_clock(call);
    if (call->mFx != Ifx_None) access(b, call->mAddr, call->mSize, call->mFx != Ifx_Read, NULL);
}

static void before_system_call(block *b) {
    static const Int registers[] = {
        offsetof(VexGuestAMD64State, guest_RAX), offsetof(VexGuestAMD64State, guest_RDI),
        offsetof(VexGuestAMD64State, guest_RSI), offsetof(VexGuestAMD64State, guest_RDX),
        offsetof(VexGuestAMD64State, guest_R10), offsetof(VexGuestAMD64State, guest_R8),
        offsetof(VexGuestAMD64State, guest_R9)};
    IRDirty *call = unsafeIRDirty_0_N(1, "pt_place_call", VG_(fnptr_to_fnentry)(pt_place_call),
                                      mkIRExprVec_1(IRExpr_GSPTR()));
    Int i;
    call->nFxState = sizeof registers / sizeof registers[0];
    VG_(memset)(&call->fxState, 0, sizeof call->fxState);
    for (i = 0; i < call->nFxState; i++) {
        call->fxState[i].fx = Ifx_Modify;
        call->fxState[i].offset = registers[i];
        call->fxState[i].size = 8;
    }
    addStmtToIRSB(b->out, IRStmt_Dirty(call));
}

static void statement(block *b, IRStmt *st) {
    const IRTypeEnv *types = b->out->tyenv;
    switch (st->tag) {
    case Ist_IMark:
        if (!is_repeated_string(st->Ist.IMark.addr, st->Ist.IMark.len)) b->instructions++;
        break;
    case Ist_Exit:
        count(b);
        break;
    case Ist_WrTmp: {
        const IRExpr *e = st->Ist.WrTmp.data;
        if (e->tag == Iex_Load) access(b, e->Iex.Load.addr, sizeofIRType(e->Iex.Load.ty), False, NULL);
        break;
    }
    case Ist_Store:
        access(b, st->Ist.Store.addr, sizeofIRType(typeOfIRExpr(types, st->Ist.Store.data)), True, NULL);
        break;
    case Ist_StoreG: {
        const IRStoreG *s = st->Ist.StoreG.details;
        access(b, s->addr, sizeofIRType(typeOfIRExpr(types, s->data)), True, s->guard);
        break;
    }
    case Ist_LoadG: {
        const IRLoadG *l = st->Ist.LoadG.details;
        IRType result, loaded;
        typeOfIRLoadGOp(l->cvt, &result, &loaded);
        access(b, l->addr, sizeofIRType(loaded), False, l->guard);
        break;
    }
    case Ist_CAS: {
        const IRCAS *c = st->Ist.CAS.details;
        const Int size = sizeofIRType(typeOfIRExpr(types, c->dataLo));
        access(b, c->addr, c->dataHi ? 2 * size : size, True, NULL);
        break;
    }
    case Ist_Dirty:
        dirty(b, st->Ist.Dirty.details);
        break;
    default:
        break;
    }
    addStmtToIRSB(b->out, st);
}

IRSB *pt_instrument(VgCallbackClosure *closure, IRSB *in, const VexGuestLayout *layout,
                    const VexGuestExtents *extents, const VexArchInfo *arch, IRType guest_word,
                    IRType host_word) {
    block b = {deepCopyIRSBExceptStmts(in), 0, 0};
    Int i = 0;
    while (i < in->stmts_used && in->stmts[i]->tag != Ist_IMark) addStmtToIRSB(b.out, in->stmts[i++]);
    for (; i < in->stmts_used; i++)
        if (in->stmts[i] && in->stmts[i]->tag != Ist_NoOp) statement(&b, in->stmts[i]);
    count(&b);
    if (in->jumpkind == Ijk_Sys_syscall) before_system_call(&b);
    return b.out;
}
