/* What must hold, said by those who see it. `fail` ends the run. */

static void oracle_started(req *q, proc *p);
static uint64_t oracle_wait(int group);
static void oracle_sent(req *q);
struct client;
static void oracle_tunnel(const proc *p);
static void oracle_tunnel_ended(const struct client *c, const req *q);
static void oracle_silent_end(const struct client *c, const req *q);
static void oracle_head(req *q, int status);
static void oracle_answered(req *q);
