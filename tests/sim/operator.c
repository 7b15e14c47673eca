/* Operators: they edit the file, ask the admin address, send signals, and at last stop it all. */

enum { OP_RELOAD, OP_KEEP, OP_STATUS, OP_SCALE, OP_RESTART, OP_RESTART_ONE, OP_PAUSE, OP_RESUME,
       OP_DRAIN, OP_UNDRAIN, OP_JOIN, OP_QUIT };

typedef struct op {
    int kind, group, n;
    uint64_t at;
    bool crossed; /* the opposite has been asked for and has no answer yet: which is first, is not known */
} op;

enum { READYZ = 3 };
static const char *const readable[] = {"/status", "/metrics", "/requests", "/readyz", "/healthz",
                                       "/server", "/route?method=GET&target=/g0/1", "/"};

static ldcorn *L;
static bool step_mode;
static int admins_open;
static uint64_t next_op;
static int ops_left;

/* Drained, and nobody has asked for the opposite: that worker gets nothing more. */
static void hold(int group, int index, uint64_t asked_at) {
    proc *it = NULL;
    if (T.resumes[group][index] || T.resumed[group][index] >= asked_at) return;
    for (proc *p = procs; p; p = p->next) {
        if (p->pid == 0 || p->group != group || p->index != index || p->state >= P_ZOMBIE) continue;
        if (it) return; /* which of the two, is not known */
        it = p;
    }
    if (it && it->ready_at && it->ready_at < asked_at) it->held_at = S.now; /* else it succeeded who was drained */
}

static void admin_answered(client *c, int status) {
    op *o = (op *)(void *)(uintptr_t)c->stray;
    if (c->dull) return; /* it has had its answer */
    c->dull = true;
    admins_open--;
    say("admin: op %d on g%d (%d): %d", o->kind, o->group, o->n, status);
    switch (o->kind) {
    case OP_RELOAD:
    case OP_KEEP: break;
    case OP_SCALE:
        if (status == 200) T.scaled[o->group] = o->n;
        T.scaled_at[o->group] = status == 200 && !T.scales_crossed[o->group] ? S.now : 0;
        T.scales[o->group]--;
        break;
    case OP_DRAIN:
        if (status == 200 && !o->crossed) hold(o->group, o->n, o->at);
        break;
    case OP_UNDRAIN: T.resumes[o->group][o->n]--; break;
    case OP_PAUSE:
    case OP_RESUME: /* one at a time for a group, so that it is known what holds */
        if (status < 400) T.paused[o->group] = o->kind == OP_PAUSE; /* else it is not known */
        if (status == 404) T.paused[o->group] = false;
        T.pausing[o->group] = false;
        T.pauses[o->group]--;
        break;
    case OP_STATUS: /* what is only read is told whatever happens, a stop too */
        if (status >= 400 && status != 599 && !(status == 503 && o->n == READYZ) && !S.bad.memory &&
            !(status == 408 && S.bad.late_turn && K.sock_room < 1000)) /* it came in pieces */
            fail("told nothing", "%s: %d", readable[o->n], status);
        break;
    default: break;
    }
}

static void admin_ask(int kind, int group, int n, const char *method, const char *target) {
    client *c = (client *)take(sizeof *c);
    op *o = (op *)take(sizeof *o);
    text t = {0};
    o->kind = kind;
    o->at = S.now;
    o->crossed = kind == OP_DRAIN && T.resumes[group][n] > 0;
    o->group = group;
    o->n = n;
    c->number = clients_made++;
    c->next = clients;
    clients = c;
    clients_open++;
    admins_open++;
    if (kind == OP_RESTART) { /* a reload of that group alone */
        T.reloads_asked++;
        T.reload_at = S.now;
    }
    if (kind == OP_SCALE) T.scales_crossed[group] = T.scales[group]++ > 0;
    if (kind == OP_UNDRAIN) {
        T.resumed[group][n] = S.now;
        T.resumes[group][n]++;
        for (proc *p = procs; p; p = p->next)
            if (p->group == group && p->index == n) p->held_at = 0;
    }
    if (kind == OP_PAUSE || kind == OP_RESUME) T.crossed[group] = T.pauses[group]++ > 0;
    c->rd.response = c->rd.any = true;
    c->admin = c->garbage = true;
    c->piece = c->read_piece = 1000000;
    c->stray = (const char *)(const void *)o;
    text_fmt(&t, "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", method, target);
    c->out = t.p;
    c->out_n = t.n;
    say("operator: %s %s", method, target);
    client_connect(c);
}

/* --- edits --- */

static void write_file(void) {
    node *n = node_find("/sim/groups.ini");
    char *z = model_text(&T.file);
    if (n == NULL) n = node_make("/sim/groups.ini", PLAIN_FILE, 0644);
    n->text = z;
    n->n = strlen(z);
    n->inode = ++K.inodes;
}

static void edit_group(group_model *g) {
    group_model fresh;
    switch (below(8)) {
    case 0: g->version++; break;
    case 1: g->workers = (int)between(1, 3); break;
    case 2:
        g->limit = g->limit && !chance(200) ? (int)between(1, 3) : g->limit;
        break;
    case 3: g->reload = (int)below(4); break;
    case 4: g->listed[below(SERVERS)] ^= true; break;
    case 5: g->listed[below(SERVERS)] = true; break;
    case 6:
        draw_group(&fresh);
        g->queue_timeout = fresh.queue_timeout;
        g->queue = fresh.queue;
        g->worker_keepalive = fresh.worker_keepalive;
        g->drain_timeout = fresh.drain_timeout;
        break;
    default: break;
    }
}

static void edit_file(void) {
    int i = (int)below(GROUPS), present = 0;
    T.file.number++;
    T.file.broken = 0;
    T.file.bad_program = false;
    for (int k = 0; k < GROUPS; k++) present += T.file.g[k].present;
    if (chance(W.remove)) {
        if (!T.file.g[i].present) { /* it comes back as it was, or it is a new one */
            if (T.file.g[i].workers == 0 || chance(300))
                draw_group(&T.file.g[i]);
            else
                T.file.g[i].present = true;
        } else if (present > 1) {
            T.file.g[i].present = false;
        }
    }
    for (int k = 0; k < GROUPS; k++) {
        if (T.file.g[k].present && coin()) edit_group(&T.file.g[k]);
    }
    if (!S.healed && chance(W.bad_files)) {
        T.file.broken = (int)below(4);
        T.file.bad_program = T.file.broken == 0;
        T.file.bad_group = i;
    }
}

static void reload(void) {
    if (coin()) edit_file();
    if (S.healed) {
        T.file.broken = 0;
        T.file.bad_program = false;
    }
    write_file();
    T.reloads_asked++;
    T.reload_at = S.now;
    if (!step_mode && coin()) {
        say("operator: HUP, edit %d", T.file.number);
        signal_ldcorn(SIGHUP);
    } else if (coin()) {
        admin_ask(OP_RELOAD, 0, T.file.number, "POST", "/reload");
    } else {
        admin_ask(OP_KEEP, 0, T.file.number, "POST", "/reload?processes=keep");
    }
}

/* --- what else they do --- */

static void ask_group(int kind, int g, int n, const char *what) {
    char target[128];
    snprintf(target, sizeof target, "/groups/%s/%s", group_names[g], what);
    admin_ask(kind, g, n, "POST", target);
}

static void ask_status(void) {
    int n = (int)below(sizeof readable / sizeof *readable);
    admin_ask(OP_STATUS, 0, n, "GET", readable[n]);
}

static void ask_members(bool join, int g) {
    char address[64], target[128];
    int i = (int)below(SERVERS);
    server_address(g, i, address);
    snprintf(target, sizeof target, "/groups/%s/workers?address=%s", group_names[g], address);
    T.members_changed[g] = S.now;
    trouble(g, join ? 2 * SEC : 3600 * (uint64_t)SEC); /* nobody may be left in it */
    admin_ask(join ? OP_JOIN : OP_QUIT, g, i, join ? "POST" : "DELETE", target);
}

static void ask_pause(int g, bool pause) {
    if (T.pausing[g]) return;
    T.paused[g] = T.pausing[g] = true; /* from here on it may be */
    ask_group(pause ? OP_PAUSE : OP_RESUME, g, 0, pause ? "pause" : "resume");
}

static void one_op(void) {
    char what[64];
    int g = draw_group_index(), i = (int)below(3);
    const unsigned weights[] = {W.reload, W.status, W.scale, W.restart, W.restart, W.pause,
                                W.pause, W.drain, W.drain, W.join, W.join};
    unsigned all = 0, at_which, which = 0;
    for (size_t k = 0; k < SIM_LEN(weights); k++) all += weights[k];
    if (all == 0) return;
    at_which = (unsigned)below(all);
    while (at_which >= weights[which]) at_which -= weights[which++];
    T.touched = true;
    switch (which) {
    case 0: reload(); break;
    case 1: ask_status(); break;
    case 2:
        snprintf(what, sizeof what, "scale?workers=%d", (int)between(1, 4));
        ask_group(OP_SCALE, g, what[14] - '0', what);
        break;
    case 3: ask_group(OP_RESTART, g, 0, "restart"); break;
    case 4:
        snprintf(what, sizeof what, "workers/%d/restart", i);
        ask_group(OP_RESTART_ONE, g, i, what);
        break;
    case 5:
    case 6: ask_pause(g, which == 5); break;
    case 7:
        trouble(g, 3600 * (uint64_t)SEC); /* all of its workers may be drained */
        snprintf(what, sizeof what, "workers/%d/drain", i);
        ask_group(OP_DRAIN, g, i, what);
        break;
    case 8:
        snprintf(what, sizeof what, "workers/%d/resume", i);
        ask_group(OP_UNDRAIN, g, i, what);
        break;
    default: ask_members(which == 9, g); break;
    }
}

static void operators(void *who) {
    (void)who;
    if (S.healed || T.stopping || ops_left-- <= 0) return;
    one_op();
    in(chance(300) ? below(50 * MS) : span(10 * MS, next_op), operators, NULL);
}

/* --- the end of all trouble --- */

static void resume_all(void *who) {
    char what[64];
    (void)who;
    if (T.stopping) return;
    for (int g = 0; g < GROUPS; g++) {
        if (W.pause) ask_group(OP_RESUME, g, 0, "resume"); /* whatever is still under way */
        for (int i = 0; W.drain && i < 8; i++) {
            snprintf(what, sizeof what, "workers/%d/resume", i);
            ask_group(OP_UNDRAIN, g, i, what);
        }
    }
}

/* What was taken without a start has to go; a reload that does so may fail, where a start is slow. */
static void mend_file(void *who) {
    (void)who;
    if (T.stopping || !(T.now.bad_program || T.file.bad_program || T.next.bad_program)) return;
    if (!T.has_next) reload();
    in(45 * SEC, mend_file, NULL);
}

static void heal(void *who) {
    (void)who;
    if (S.healed || T.stopping) return;
    say("from now on nothing new goes wrong");
    S.healed = true;
    K.fd_limit = 500; /* what had run out is there again */
    for (proc *p = procs; p; p = p->next) {
        p->sick = false;
        p->crash_at = 0;
    }
    for (int g = 0; g < GROUPS; g++) {
        if (T.trouble[g] > S.now + 60 * SEC) T.trouble[g] = S.now + 60 * SEC;
    }
    resume_all(NULL);
    in(12 * SEC, resume_all, NULL); /* what was asked before that may have come after it */
    mend_file(NULL);
}
