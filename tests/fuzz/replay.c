/* main() of a target without libFuzzer: runs each input named, or of each folder named, in a child,
   so that one that fails is named and the rest still run.
   cc -fsanitize=address,undefined tests/fuzz/chunk.c tests/fuzz/replay.c -o build/fuzz/chunk-replay */
#include <dirent.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FILES = 16384, SECONDS = 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *files[FILES];
static int count;

static void add(const char *path) {
    if (count < FILES) files[count++] = strdup(path);
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void add_folder(const char *path) {
    char name[4096];
    struct dirent *entry;
    int first = count;
    DIR *d = opendir(path);
    while (d && (entry = readdir(d)) != NULL) {
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        if (entry->d_name[0] != '.') add(name);
    }
    if (d) closedir(d);
    qsort(files + first, (size_t)(count - first), sizeof *files, by_name);
}

static int run(const char *path) {
    FILE *f = fopen(path, "rb");
    uint8_t *data = NULL;
    long size = 0;
    if (f && fseek(f, 0, SEEK_END) == 0) size = ftell(f);
    if (f) rewind(f);
    if (size >= 0) data = (uint8_t *)malloc(size ? (size_t)size : 1);
    if (f == NULL || data == NULL || fread(data, 1, (size_t)size, f) != (size_t)size) {
        fprintf(stderr, "%s: cannot be read\n", path);
        return 1;
    }
    fclose(f);
    alarm(SECONDS);
    LLVMFuzzerTestOneInput(data, (size_t)size);
    alarm(0);
    free(data);
    return 0;
}

/* Runs files[from..) in a child until one ends it; the number of the last one begun. */
static int child(int from, int *status) {
    int fd[2], last = from;
    pid_t pid;
    fflush(stdout);
    if (pipe(fd) < 0 || (pid = fork()) < 0) {
        perror("replay");
        exit(1);
    }
    if (pid == 0) {
        close(fd[0]);
        for (int i = from; i < count; i++) {
            if (write(fd[1], &i, sizeof i) != (ssize_t)sizeof i || run(files[i])) _exit(1);
        }
        exit(0); /* not _exit: what is left in memory is looked for here */
    }
    close(fd[1]);
    while (read(fd[0], &last, sizeof last) == (ssize_t)sizeof last) {}
    close(fd[0]);
    waitpid(pid, status, 0);
    return last;
}

int main(int argc, char **argv) {
    const char *name = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];
    int failed = 0;
    for (int i = 1; i < argc; i++) {
        struct stat st;
        if (stat(argv[i], &st) == 0 && S_ISDIR(st.st_mode))
            add_folder(argv[i]);
        else
            add(argv[i]);
    }
    for (int from = 0, status; from < count; from++) {
        from = child(from, &status);
        if (status == 0) break;
        failed++;
        printf("FAIL %s\n", files[from]);
    }
    printf("fuzz %s: %d passed, %d failed\n", name, count - failed, failed);
    return failed || count == 0;
}
