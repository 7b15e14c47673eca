/* What the fields of a desc mean beside the keys of a file. Lines on standard input, each for one
   field of a desc with the groups `first` and `web`, until `check` or `dump`:
       number FIELD N, text FIELD WORD, words FIELD WORD ...     in the desc
       set WORD                                                  over all of it
       file PATH, also                                           also: another group named `web`
   FIELD is `name` or `web.name`. The answer is `ok` or `error`, a text, a line with a dot.
   fields.h, which the test makes from ldcorn.h, has FIELD(scope, type, name) for each. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../ldcorn.h"

enum { NUMBER, TEXT, WORDS };

static const struct field {
    const char *name;
    size_t at;
    int type;
    bool group;
} fields[] = {
#define GROUP(type, name) {"web." #name, offsetof(ldcorn_group_desc, name), type, true},
#define GLOBAL(type, name) {#name, offsetof(ldcorn_desc, name), type, false},
#include "fields.h"
};

static int serve(int fd, const ldcorn_worker_info *who, void *user) {
    (void)fd, (void)who, (void)user;
    return 0;
}

static const ldcorn_function_desc functions[] = {{"serve", serve, NULL}};
static const char *const star[] = {"*", NULL}, *const first[] = {"/first", NULL};
static ldcorn_group_desc groups[3];
static ldcorn_desc desc;
static const char *set[256];
static int sets;

static void fresh(void) {
    memset(groups, 0, sizeof groups);
    memset(&desc, 0, sizeof desc);
    memset(set, 0, sizeof set);
    sets = 0;
    groups[0].name = "first";
    groups[1].name = groups[2].name = "web";
    groups[0].function = groups[1].function = groups[2].function = "serve";
    groups[0].routes = first;
    groups[1].routes = star;
    desc.groups = groups;
    desc.group_count = 2;
    desc.functions = functions;
    desc.function_count = 1;
    desc.set = set;
}

static void *kept[100000]; /* a test's few lines, freed by nobody */
static size_t kept_n;

static void *keep(void *p) {
    if (p == NULL || kept_n == sizeof kept / sizeof *kept) exit(9);
    return kept[kept_n++] = p;
}

static char *copy(const char *z) {
    size_t n = strlen(z) + 1;
    return (char *)memcpy(keep(malloc(n)), z, n);
}

static const char **words(char *text) {
    const char **list = (const char **)keep(calloc(strlen(text) + 1, sizeof *list));
    int n = 0;
    for (char *w = strtok(text, " "); w; w = strtok(NULL, " ")) list[n++] = copy(w);
    return list;
}

static int assign(int type, const char *name, char *value) {
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const struct field *f = &fields[i];
        char *at = (f->group ? (char *)&groups[1] : (char *)&desc) + f->at;
        if (strcmp(f->name, name) != 0 || f->type != type) continue;
        if (type == NUMBER) {
            int64_t n = strtoll(value, NULL, 10);
            memcpy(at, &n, sizeof n);
        } else {
            const void *p = type == TEXT ? (const void *)copy(value) : (const void *)words(value);
            memcpy(at, &p, sizeof p);
        }
        return 1;
    }
    return 0;
}

static void answer(bool dump) {
    static ldcorn_error error, warnings;
    int r;
    memset(&error, 0, sizeof error);
    memset(&warnings, 0, sizeof warnings);
    r = dump ? ldcorn_dump(&desc, 1, &error) : ldcorn_check(&desc, &error, &warnings);
    printf("%s\n%s%s.\n", r ? "error" : "ok", r ? error.text : "", r ? "" : warnings.text);
    fflush(stdout);
    fresh();
}

int main(void) {
    static char line[65536], value[65536];
    char what[16], name[64];
    fresh();
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        value[0] = 0;
        if (strcmp(line, "check") == 0 || strcmp(line, "dump") == 0)
            answer(line[0] == 'd');
        else if (strcmp(line, "also") == 0)
            desc.group_count = 3;
        else if (strncmp(line, "set ", 4) == 0)
            set[sets++] = copy(line + 4);
        else if (strncmp(line, "file ", 5) == 0)
            desc.file = copy(line + 5);
        else if (sscanf(line, "%15s %63s %65535[^\n]", what, name, value) < 2 ||
                 !assign(what[0] == 'n'   ? NUMBER
                         : what[0] == 't' ? TEXT
                                          : WORDS,
                         name, value))
            return fprintf(stderr, "no field: %s\n", line), 2;
    }
    return 0;
}
