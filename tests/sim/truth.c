/* What the oracle knows because it plays both ends: each request from its first byte to its last,
   what the operator has done, and which configuration may be in force. */

enum { MOST_REQUESTS = 4000, MOST_PROCS = 2000 };

/* How a worker is to answer one request. */
typedef struct plan {
    uint64_t delay, gap;   /* before the first byte; between pieces */
    int status, interims;  /* the final one; 1xx before it */
    bool odd_interim;      /* fields in a 1xx that have no business there */
    frame frame;           /* of the answer */
    bool odd_framing;      /* chunked said where there is no body */
    uint32_t size;         /* of the body */
    size_t piece;          /* most bytes at a time */
    bool says_close, closes; /* Connection: close; and does it */
    bool no_date, early;   /* early: answers when the head is in */
    int broken;            /* 0: a good answer */
    bool silent;           /* none until everything is healed */
    uint32_t crash;        /* the process dies once it has written so many bytes + 1; 0: never */
} plan;

enum { B_NONE, B_STATUS, B_SHORT, B_CHUNK, B_RESET, B_GARBAGE, B_101, B_SURPLUS, B_QUITS, B_KINDS };

struct req {
    uint32_t id;
    int group;
    const char *method;
    bool unsafe, head, http10, chunked, expect, close, keep_asked, upgrade;
    uint32_t size; /* of its body */
    plan plan;
    const end *asker;     /* its client's */
    uint64_t patience;    /* queue_timeout when it came */
    /* what became of it: */
    bool sent;            /* all bytes are in ldcorn's hands */
    uint64_t begun_at;    /* its first byte may be on its way */
    uint64_t sent_at;     /* when the last one was written */
    uint64_t read_call;   /* the call by which ldcorn read its last byte, 0: not yet */
    uint64_t read_at, read_turn;
    uint64_t started_at, started_turn; /* its first byte reached a worker */
    int seen;             /* workers that got its head */
    bool finished;        /* the worker has written all of the answer */
    bool hurt;            /* its worker broke, died or closed under it */
    bool answered, complete, cut, ours; /* at the client; ours: ldcorn's own answer */
    int status;
    uint64_t answered_at;
    bool left, slammed;   /* the client went away first; by a reset */
    bool first;           /* nothing stood before it on its connection */
    bool slow;            /* the client has not kept the pace that was asked of it */
    proc *at;             /* the process that had it last */
    uint64_t moved_at;    /* when the worker last wrote something of it */
};

typedef struct truth {
    req *reqs[MOST_REQUESTS];
    int requests;
    model now, next, file; /* in force; read and maybe in force; what the file says */
    bool has_next;
    bool file_ok; /* it is not broken in a way that we know */
    int limit_kept[GROUPS]; /* of a group that was removed */
    bool paused[GROUPS], pausing[GROUPS]; /* pausing: an answer is to come */
    int pauses[GROUPS];   /* requests to pause or resume that have no answer yet */
    bool crossed[GROUPS]; /* of two at once nobody knows which was the last, until one is alone */
    int scaled[GROUPS]; /* by admin, 0: not */
    int scales[GROUPS]; /* requests for that without an answer yet */
    bool scales_crossed[GROUPS]; /* two of them were there at once: who came last is not known */
    uint64_t scaled_at[GROUPS]; /* when it became known */
    uint64_t trouble[GROUPS]; /* until then a worker of it may be missing for a good reason */
    uint64_t resumed[GROUPS][8]; /* when that worker was to be resumed last */
    int resumes[GROUPS][8];      /* requests for that without an answer yet */
    bool joined[GROUPS][SERVERS]; /* what admin made of the list: set when it differs */
    bool members_known[GROUPS];
    uint64_t heal_at, end_at;
    bool stopping, stop_hard;
    uint64_t stop_at, quiet_since;
    int reloads_asked, reloads_done, reloads_ok, reloads_failed, reloads_partial;
    uint64_t reload_at; /* the last one that was asked for */
    bool touched; /* by operators other than through the file, lately */
    uint64_t members_changed[GROUPS];
    int refused_503;
    uint64_t last_fault;
} truth;

static truth T;

static req *req_find(uint32_t id) {
    return id < (uint32_t)T.requests ? T.reqs[id] : NULL;
}

/* Slots per worker that the group may have at most now; 0: no limit. */
static int limit_of(int group) {
    int a = T.now.g[group].present ? T.now.g[group].limit : T.limit_kept[group];
    int b = T.has_next && T.next.g[group].present ? T.next.g[group].limit : a;
    if (a == 0 || b == 0) return 0;
    return a > b ? a : b;
}

static const group_model *group_now(int group) { return &T.now.g[group]; }

/* Something happened to a worker for which requests may be refused or lost for a while. */
static void trouble(int group, uint64_t lasts) {
    uint64_t until = S.now + lasts;
    if (until > T.trouble[group]) T.trouble[group] = until;
}

static bool troubled(int group) { return T.trouble[group] > S.now; }
